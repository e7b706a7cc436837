#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/../.."
python predict.py store=paper 'tasks=[hellaswag,xnli]' 'seeds=[0,1]' 'features=[scale,all]' \
  'predictor=[median,loglinear,ridge,svr,kaplan,chinchilla,xgboost,lightgbm,random_forest]' \
  'cv=[paper,nested,leave_family_out,leave_org_out,extrapolate]' explain=false significance=false "$@"
