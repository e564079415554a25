#!/usr/bin/env bash
# Measure everything that wants a GPU, part by part, within 10 minutes; call it again to continue.
#
#   benchmarks/gpu.sh [--device cuda] [--quick] [--limit-s 600] [--part NAME]... [FOLDER]
#
# Each part writes FOLDER/NAME.json (default: results/gpu in this folder) and its output to NAME.log; a part whose
# figures are complete is not measured again. Exit status: 0 if every part was measured, 1 if one failed or is left.
# `--device cpu --quick` runs every part cheaply on a CPU, as a check.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m benchmarks.harness.gpu_parts "$@"
