#!/usr/bin/env bash
# Prints documents per CPU-second, two workers against one, the peak of memory, and single taggers and filters.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
python experiments/tag_speed/speed.py "$@"
python experiments/tag_speed/code_ast.py
python experiments/tag_speed/filters.py
