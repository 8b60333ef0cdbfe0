#!/usr/bin/env bash
# Fails when a generated file is not what the code would generate now.
set -euo pipefail
cd "$(dirname "$0")/.."
stale=0
compare() { # file, command
	local file=$1
	shift
	if ! diff -u "$file" <("$@") >&2; then
		echo "$file is out of date: run make gen" >&2
		stale=1
	fi
}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/rootstream" ./cmd/rootstream
compare docs/CONFIG.md "$bin/rootstream" config explain -o markdown
compare docs/CLI.md "$bin/rootstream" docs cli
compare docs/openapi.json "$bin/rootstream" openapi
exit "$stale"
