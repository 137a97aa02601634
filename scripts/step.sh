#!/bin/sh
# Runs one step of a target: says its name first and its seconds after, and names it when it fails.
# Usage: step.sh NAME COMMAND [ARGUMENT...]
set -u
name=$1
shift
printf '== %s\n' "$name" >&2
start_ms=$(date +%s%3N)
code=0
"$@" || code=$?
took_ms=$(($(date +%s%3N) - start_ms))
took=$(printf '%d.%d s' $((took_ms / 1000)) $((took_ms % 1000 / 100)))
if [ "$code" -eq 0 ]; then
    printf '== %s: done in %s\n' "$name" "$took" >&2
else
    printf '== %s: FAILED after %s, exit code %d\n' "$name" "$took" "$code" >&2
fi
exit "$code"
