#!/usr/bin/env bash
# Prints documents per CPU-second, the ratio of two workers to one, and the peak of memory; see README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
OMP_NUM_THREADS=1 python experiments/tag_speed/speed.py "$@"
