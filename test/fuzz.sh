#!/bin/sh
# Runs every fuzz target for an equal share of MINUTES (default 15), or those
# whose name matches ONLY. Minimizing each new input for the usual minute would
# take all the time of a short run. What fails leaves its input in testdata/fuzz of its
# package: keep it there, with a fix.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | grep -v '/test/walbench/' |
	sed -E 's#^(.*)/[^/]*:func (Fuzz.*)$#\1 \2#' | grep -E "${ONLY:-.}" | sort -u)
count=$(echo "$targets" | wc -l)
share=$((${MINUTES:-15} * 60 / count))
test "$share" -ge 5 || share=5 # less would be spent on starting
echo "$count targets, ${share}s each"
failed=
out=$(mktemp)
trap 'rm -f "$out"' EXIT
while read -r pkg target; do
	printf '%-24s %-30s ' "$pkg" "$target"
	if "$GO" test "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime "${share}s" -fuzzminimizetime 2s >"$out" 2>&1; then
		sed -En 's/.*execs: ([0-9]+).*new interesting: ([0-9]+).*/\1 runs, \2 new inputs/p' "$out" | tail -n 1
	elif ! grep -q 'Failing input' "$out" && grep -q '^    context deadline exceeded$' "$out"; then
		echo "ended in the middle of a run" # of the fuzzer, when its time is up
	else
		echo FAILED
		cat "$out"
		failed="$failed $target"
	fi
done <<END
$targets
END
test -z "$failed" || { echo "failed:$failed" >&2; exit 1; }
