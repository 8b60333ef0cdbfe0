#!/usr/bin/env bash
# Runs the tests with the race detector and holds the rooms that decide things to their coverage.
# A package that fails while the others share the machine runs once more, alone: what fails then has failed.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=1 # the race detector needs it

rooms="user:80 session:80 mfa:80 auth:80 stream:80 event:85 statesync:85 postgres:80 cache:80 secret:80 backup:80" # room:least
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
profile=$work/coverage.out

if ! go test -race -count=1 -timeout 20m -coverprofile="$profile" "$@" | tee "$work/log"; then
	mapfile -t failed < <(sed -n 's/^FAIL[[:space:]]\+\(rootstream[^[:space:]]*\).*/\1/p' "$work/log" | sort -u)
	[ ${#failed[@]} -gt 0 ] || exit 1
	echo "failed beside others, running alone: ${failed[*]}"
	go test -race -count=1 -p 1 -timeout 20m "${failed[@]}"
fi

[ "$*" = ./... ] || exit 0
short=0
for entry in $rooms; do
	room=${entry%:*} least=${entry#*:}
	share=$(awk -v room="rootstream/$room/" '
		NR > 1 && index($1, room) == 1 && $1 !~ /test\// { n = $(NF-1); total += n; if ($NF > 0) hit += n }
		END { if (total) printf "%.1f", 100 * hit / total; else print 0 }' "$profile")
	echo "coverage of $room: $share %"
	if awk -v s="$share" -v least="$least" 'BEGIN { exit !(s < least) }'; then
		echo "coverage of $room is below $least %" >&2
		short=1
	fi
done
exit "$short"
