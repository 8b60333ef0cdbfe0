#!/usr/bin/env bash
# Installs what is missing: `install-deps.sh run` for the stack, `test` for the tests too, `bench` for the peers of benchmarks.
# Distribution packages are kept from starting servers of their own.
set -euo pipefail

need_go=1.26
missing=()
has() { command -v "$1" >/dev/null 2>&1; }
want() { # package, then the test that says it is there
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}
postgres_found() { has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres'; }
pgbench_found() { has pgbench || compgen -G '/usr/lib/postgresql/*/bin/pgbench'; }

want postgresql postgres_found
want redis-server has redis-server
if [ "${1:-run}" = bench ]; then
	want postgresql-contrib pgbench_found
	want pgbackrest has pgbackrest
fi
if [ "${1:-run}" = test ]; then
	want postgresql-contrib pgbench_found
	want zbar-tools has zbarimg
	want librsvg2-bin has rsvg-convert
	want gcc has gcc
fi

if [ ${#missing[@]} -gt 0 ]; then
	if ! has apt-get; then
		echo "Missing: ${missing[*]} (names of the Debian packages). Install them with your package manager, then run this again." >&2
		exit 2
	fi
	as_root=()
	if [ "$(id -u)" != 0 ]; then
		if ! has sudo; then
			echo "Missing: ${missing[*]}. As root: apt-get install --no-install-recommends ${missing[*]}" >&2
			exit 2
		fi
		as_root=(sudo)
	fi
	echo "Installing ${missing[*]}" >&2
	# No cluster of its own, no service started: the stack supervises its own servers.
	"${as_root[@]}" bash -c '
		set -e
		export DEBIAN_FRONTEND=noninteractive
		if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
			mkdir -p /etc/postgresql-common
			echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
		fi
		made=
		if [ ! -e /usr/sbin/policy-rc.d ]; then
			printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d
			chmod 755 /usr/sbin/policy-rc.d
			made=1
		fi
		trap "[ -z \"$made\" ] || rm -f /usr/sbin/policy-rc.d" EXIT
		apt-get update -qq >/dev/null
		apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >/dev/null
	' bash "${missing[@]}"
fi

if ! has go; then
	if [ -x /usr/local/go/bin/go ]; then
		echo "Go is not in the path: export PATH=\$PATH:/usr/local/go/bin" >&2
	else
		echo "Go $need_go or newer is needed: https://go.dev/doc/install" >&2
	fi
	exit 2
fi
have_go=$(go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n%s\n' "$need_go" "$have_go" | sort -V | head -n 1)" != "$need_go" ]; then
	echo "Go $need_go or newer is needed, this is $have_go: https://go.dev/doc/install" >&2
	exit 2
fi

# A real S3 server for the tests; it is not packaged.
if [ "${1:-run}" = test ] && ! has versitygw && [ ! -x "$(dirname "$0")/../bin/versitygw" ]; then
	echo "Building versitygw" >&2
	CGO_ENABLED=0 go -C "$(dirname "$0")/../tools/versitygw" build -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw
fi
