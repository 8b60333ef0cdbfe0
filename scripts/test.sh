#!/usr/bin/env bash
# Runs the tests with the race detector and holds the rooms that decide things to their coverage.
# A package that fails while the others share the machine runs once more, alone: what fails then has failed.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=1 # the race detector needs it
# A program with the race detector sleeps for a second before it ends; the tests start hundreds.
export GORACE="atexit_sleep_ms=10 ${GORACE:-}"

rooms="user:80 session:80 mfa:80 auth:80 stream:80 event:85 statesync:85 postgres:80 cache:80 secret:80 backup:80" # room:least

# The files of hundreds of small clusters come and go: where there is plenty of memory they stay in it.
in_memory() {
	local dir=$1 gib=$((1 << 20))
	[ -z "${TMPDIR:-}" ] && [ -w "$dir" ] && [ "$(stat -f -c %T "$dir")" = tmpfs ] &&
		[ "$(df -k --output=avail "$dir" | tail -n 1)" -ge $((8 * gib)) ] &&
		[ "$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)" -ge $((12 * gib)) ] &&
		! findmnt -n -o OPTIONS -T "$dir" | grep -qw noexec
}
parent=${TMPDIR:-/tmp}
if in_memory /dev/shm; then parent=/dev/shm; fi
work=$(mktemp -d "$parent/rs-XXXXXX")
trap 'rm -rf "$work" || true' EXIT
chmod 1777 "$work" # PostgreSQL runs as a user of its own
export TMPDIR=$work

# Tests wait much, for servers and for faults to end: one package more than there are cores keeps those busy.
# go vet is for make check.
run() { # name of the log and the profile, then flags and packages
	local name=$1
	shift
	go test -race -vet=off -count=1 -timeout 20m -coverprofile="$work/$name.cover" "$@" 2>&1 | tee "$work/$name.log"
}
packages() { sed -n 's/^FAIL[[:space:]]\+\(rootstream[^[:space:]]*\).*/\1/p' "$@" | sort -u; }
tests() { sed -n 's/^[[:space:]]*--- FAIL: \([^ ]*\).*/  \1/p' "$@"; }

together=(-p $(($(nproc) + 1)))
all() {
	local others ok=0 doors=(./backup/archive/... ./backup/replication ./backup/repo/... ./backup/restore/...)
	mapfile -t others < <(go list ./... | grep -v '^rootstream/backup/\(archive\|replication\|repo\|restore\)')
	run others "${together[@]}" "${others[@]}" || ok=1
	# The rooms below these are tested through their doors, which go test counts only where it is told to.
	run doors "${together[@]}" -coverpkg="$(IFS=,; echo "${doors[*]}")" "${doors[@]}" || ok=1
	return $ok
}
some() { run others "${together[@]}" "$@"; }

echo "Each package says ok when it is done; all of them take some ten minutes on two cores."
what=some
if [ "$*" = ./... ]; then what=all; fi
if ! $what "$@"; then
	logs=("$work"/*.log)
	mapfile -t failed < <(packages "${logs[@]}")
	[ ${#failed[@]} -gt 0 ] || exit 1
	echo "failed beside others, running alone: ${failed[*]}"
	if ! run alone -p 1 "${failed[@]}"; then
		mapfile -t failed < <(packages "$work/alone.log")
		printf '\nFAILED: %s\n' "${failed[*]}"
		tests "$work/alone.log"
		exit 1
	fi
	printf '\nfailed beside others only, and passed alone:\n'
	tests "${logs[@]}"
fi

[ $what = all ] || exit 0
short=0
for entry in $rooms; do
	room=${entry%:*} least=${entry#*:}
	share=$(cat "$work"/*.cover | awk -v room="rootstream/$room/" '
		index($1, room) == 1 && $1 !~ /test\// { size[$1] = $2; hit[$1] += $3 }
		END { for (b in size) { n += size[b]; if (hit[b]) h += size[b] } if (n) printf "%.1f", 100 * h / n; else print 0 }')
	echo "coverage of $room: $share %"
	if awk -v s="$share" -v least="$least" 'BEGIN { exit !(s < least) }'; then
		echo "coverage of $room is below $least %" >&2
		short=1
	fi
done
exit "$short"
