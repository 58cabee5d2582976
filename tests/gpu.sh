#!/usr/bin/env bash
# What needs a GPU, in eight minutes: OUT/gpu.json and OUT/gpu.log. No network, no datasets, no pytest.
#
#   bash tests/gpu.sh OUT            # on one GPU
#   bash tests/gpu.sh OUT --tiny     # the same code on a CPU in seconds; its numbers mean nothing
set -eu
exec python "$(dirname "$0")/gpu.py" "$@"
