#!/usr/bin/env bash
# backup.sh [full|incremental|differential|logical] [flags of rootstream backup create]: takes a backup, then removes
# what is not to be kept any longer. Prints the backup's id. The repository and the server are those of the stack in
# its folder, or of ROOTSTREAM_CONFIG, or of ROOTSTREAM_BACKUP_REPO, _KEY_FILE, _DSN and _PGDATA. ROOTSTREAM names the
# program, if it is not in the path.
set -euo pipefail
rootstream=${ROOTSTREAM:-rootstream}
type=full
case "${1:-}" in
full | incremental | differential | logical) type=$1 && shift ;;
esac
"$rootstream" backup create --type "$type" "$@"
"$rootstream" backup prune --yes >&2
