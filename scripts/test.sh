#!/usr/bin/env bash
# Runs the tests with the race detector and holds the rooms that decide things to their coverage.
set -euo pipefail
cd "$(dirname "$0")/.."

rooms="user session mfa auth stream event postgres cache secret"
profile=$(mktemp)
trap 'rm -f "$profile"' EXIT

go test -race -count=1 -timeout 20m -coverprofile="$profile" "$@"

[ "$*" = ./... ] || exit 0
go tool cover -func="$profile" >/dev/null
failed=0
for room in $rooms; do
	share=$(awk -v room="rootstream/$room/" '
		NR > 1 && index($1, room) == 1 && $1 !~ /test\// { file = $1; n = $(NF-1); total += n; if ($NF > 0) hit += n }
		END { if (total) printf "%.1f", 100 * hit / total; else print 0 }' "$profile")
	echo "coverage of $room: $share %"
	awk -v s="$share" 'BEGIN { exit !(s < 80) }' && { echo "coverage of $room is below 80 %" >&2; failed=1; }
done
exit "$failed"
