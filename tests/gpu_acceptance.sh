#!/bin/sh
# Runs the main job on a real GPU with random weights and the demo model, in at most eight minutes, and prints
# ratios with PASS or FAIL against the goals. With --cpu-tiny it runs a tiny model here and judges no time.
# PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."
SLICESCOPE_HOME="${SLICESCOPE_HOME:-$(mktemp -d)}" PYTHONPATH="${PWD}:${PWD}/tests" \
    exec "${PYTHON:-python}" -u tests/gpu_acceptance.py "$@"
