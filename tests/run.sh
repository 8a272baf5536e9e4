#!/bin/sh
# All tests, in two halves at once that take about as long: notebooks and scripts wait for others much of the time,
# which leaves one of two cores to everything else. The second half's output follows the first's.
#
#   tests/run.sh PYTHON [PYTEST OPTION...]
set -u
python=$1
shift
log=$(mktemp)

"$python" -m pytest tests/contract tests/reliability tests/stack tests/unit "$@" >"$log" 2>&1 &
other=$!
# A shell's background process ignores Ctrl-C: it is ended here, and its servers with it.
trap 'kill -TERM "$other" 2>/dev/null; rm -f "$log"; exit 130' INT TERM
"$python" -m pytest tests/notebooks tests/kind "$@"
first=$?
wait "$other"
second=$?
trap - INT TERM
cat "$log"
rm -f "$log"
[ "$first" -eq 0 ] && [ "$second" -eq 0 ]
