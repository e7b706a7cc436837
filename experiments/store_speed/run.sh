#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/../.."
OMP_NUM_THREADS=1 python experiments/store_speed/run.py "$@"
