#!/bin/sh
# Installs what the tests and the demo need and this host lacks. Debian's
# packages only; a host that has them all is left as it is.
set -eu
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need ip iproute2
need nft nftables
need gcc gcc
need curl curl
need file file
need git git
need mkfs.ext4 e2fsprogs
need mount mount
if [ "${CI:-}" = true ]; then
	need clang clang
	need llvm-strip llvm
fi
command -v go >/dev/null 2>&1 || { echo "Go is not installed; hint: https://go.dev/dl, the version that go.mod names" >&2; exit 1; }
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null 2>&1 || { echo "please install:$missing" >&2; exit 1; }
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing
