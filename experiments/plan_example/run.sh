#!/usr/bin/env bash
# A plan, its variations, a search of the same compute, and what became of it. The first call fits, the others answer.
set -euo pipefail
cd "$(dirname "$0")/../.."
python predict.py store=paper mode=whatif plan.file=experiments/plan_example/my_model.yaml vary.code_pct=[0,60,5]
python predict.py store=paper mode=design plan.file=experiments/plan_example/my_model.yaml design.flops=4.32e21 \
  'design.objective=[accuracy,humaneval]'
python predict.py store=paper mode=score score.truth=experiments/plan_example/truth.csv
