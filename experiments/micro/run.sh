#!/usr/bin/env bash
# Design features against scale-only on the population that ships with njsl; the run goes on if it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=outputs/micro
python predict.py store=micro hydra.run.dir=$out "$@"
python experiments/micro/run.py $out
