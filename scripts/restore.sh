#!/usr/bin/env bash
# restore.sh FOLDER [TIME] [flags of rootstream backup restore]: restores the newest state, or that of a time with its
# zone (2026-11-28T20:14:00Z), into an empty folder, starts the server and waits until it is there. It asks nothing.
set -euo pipefail
if [ $# -lt 1 ]; then
	sed -n '2,3s/^# //p' "$0" >&2
	exit 2
fi
rootstream=${ROOTSTREAM:-rootstream}
target=(latest --to "$1")
shift
if [ $# -gt 0 ] && [[ $1 == [0-9]* ]]; then
	target+=(--target-time "$1")
	shift
fi
exec "$rootstream" backup restore "${target[@]}" --start --yes "$@"
