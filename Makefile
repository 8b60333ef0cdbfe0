# What a newcomer needs: make up, make test. Everything else: make help.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PREFIX ?= /usr/local
LISTEN ?= 127.0.0.1:8080
BIN := bin/rootstream
LINT := bin/golangci-lint
PKGS ?= ./...
export CGO_ENABLED ?= 0

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build bin/rootstream
	go build -trimpath -o $(BIN) ./cmd/rootstream

up: ## install what is missing, build, and run the whole stack here (DATA=dir LISTEN=host:port)
	@scripts/install-deps.sh run
	@$(MAKE) --no-print-directory build
	@exec $(BIN) up $(if $(DATA),--data $(DATA)) --listen $(LISTEN)

test: ## install what is missing, run all tests against real servers, check coverage
	@scripts/install-deps.sh test
	@scripts/test.sh $(PKGS)

check: $(LINT) ## lint, vet, architecture, dependencies and generated files up to date
	go mod tidy -diff
	go vet ./...
	go test -count=1 .
	$(LINT) run ./...
	@scripts/check-generated.sh

gen: ## regenerate docs/CONFIG.md, docs/CLI.md and docs/openapi.json
	go run ./cmd/rootstream config explain -o markdown > docs/CONFIG.md
	go run ./cmd/rootstream docs cli > docs/CLI.md
	go run ./cmd/rootstream openapi > docs/openapi.json

bench: ## measure against floors in the same run, write docs/BENCHMARKS.md
	@scripts/install-deps.sh test
	go run ./bench -out docs/BENCHMARKS.md

bench-backup: ## measure backups beside pgBackRest, write docs/BENCHMARKS-backup.md (SCALE=100, 300)
	@scripts/install-deps.sh bench
	go run ./bench/backup -scale $(or $(SCALE),100) -out docs/BENCHMARKS-backup.md

soak: ## the fault tests at full length (SOAK=30m)
	@scripts/install-deps.sh test
	export ROOTSTREAM_SOAK=$(or $(SOAK),30m) && go test -count=1 -timeout 4h -run WhateverBreaks -v ./tests/... && go test -count=1 -timeout 4h ./backup/... ./tests/backup

test-versions: ## cycle and recovery tests of backups on PostgreSQL 14, 16, 17 and 18
	@scripts/test-versions.sh

install: build ## install the binary, completions and man pages under PREFIX
	@scripts/install.sh $(BIN) $(DESTDIR)$(PREFIX)

$(LINT): tools/go.mod
	go -C tools build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $(LINT)

.PHONY: help build up test check gen bench bench-backup soak install test-versions
