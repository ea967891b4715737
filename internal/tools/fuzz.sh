#!/usr/bin/env bash
# Runs every fuzz target of the repository in turn. usage: fuzz.sh DURATION
set -euo pipefail
cd "$(dirname "$0")/../.."
duration=${1:?usage: fuzz.sh DURATION}

# One "package target" a line, found by scanning: nobody has to keep a list.
targets=$(grep -rnoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' --exclude-dir=node_modules . |
	sed -E 's|^(.*)/[^/]+:[0-9]+:func (Fuzz.*)$|\1 \2|' | sort -u)
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }

while read -r package target; do
	echo "== $package $target ($duration)"
	go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$duration" </dev/null
done <<<"$targets"
