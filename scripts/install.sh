#!/usr/bin/env bash
# install.sh BINARY PREFIX: the binary, shell completions and man pages.
set -euo pipefail
umask 022 # what is installed is for everyone
binary=$1 prefix=$2
install -Dm755 "$binary" "$prefix/bin/rootstream"
install -d "$prefix/share/bash-completion/completions" "$prefix/share/zsh/site-functions" \
	"$prefix/share/fish/vendor_completions.d" "$prefix/share/man/man1"
"$binary" completion bash >"$prefix/share/bash-completion/completions/rootstream"
"$binary" completion zsh >"$prefix/share/zsh/site-functions/_rootstream"
"$binary" completion fish >"$prefix/share/fish/vendor_completions.d/rootstream.fish"
"$binary" docs man "$prefix/share/man/man1"
echo "installed rootstream, its completions and man pages under $prefix"
