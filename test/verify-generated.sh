#!/bin/sh
# Compiles the BPF programs again in a copy and compares with what is
# committed. Only the clang that made them makes the same bytes, so a host
# with another one says so and goes on; CI has the right one.
set -eu
want=$(cat bpf/CLANG_VERSION)
have=$(clang --version 2>/dev/null | sed -n 's/.*clang version \([0-9.]*\).*/\1/p' | head -n 1)
if [ "$have" != "$want" ]; then
	echo "generated BPF objects not compared: clang $want made them, this host has ${have:-none}"
	exit 0
fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$copy"
(cd "$copy" && go generate ./bpf)
for f in bpf/*_bpfel.go bpf/*_bpfel.o; do
	cmp "$f" "$copy/$f" || { echo "hint: make generate, and commit"; exit 1; }
done
echo "generated BPF objects match their source"
