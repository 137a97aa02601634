#!/bin/sh
# Runs a command, and another one meanwhile, which is told of when both have ended. Fails when either does.
# Usage: meanwhile.sh 'OTHER [ARGUMENT...]' COMMAND [ARGUMENT...]
set -u
said=$(mktemp)
trap 'rm -f "$said"' EXIT
$1 >"$said" 2>&1 </dev/null &
other=$!
# Nobody is left behind by an interrupt.
trap 'kill "$other"; exit 130' INT TERM
shift
code=0
"$@" || code=$?
wait "$other" || code=$?
cat "$said" >&2
exit "$code"
