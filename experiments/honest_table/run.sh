#!/usr/bin/env bash
# Every predictor with every organisation held out; the stack with intervals in both views; the paper's outer folds.
# Runs that were stopped go on; `run.py` prints the tables of the README from the folders.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=outputs/honest_table
common="seeds=[0] explain=false significance=false"
python predict.py store=paper cv=leave_org_out features=all $common intervals=false hydra.run.dir=$out/all_predictors \
  'predictor=[median,loglinear,kaplan,chinchilla,ridge,kernel_ridge,svr,hierarchical,random_forest,extra_trees,median_forest,xgboost,lightgbm,residual,gaussian_process,multitask,stack]'
python predict.py store=paper cv=leave_org_out 'features=[scale,all]' predictor=stack $common hydra.run.dir=$out/stack_raw
python predict.py store=paper cv=leave_org_out 'features=[scale,all]' predictor=stack $common store.view=curated \
  hydra.run.dir=$out/stack_curated
python predict.py store=paper cv=nested features=all predictor=stack 'seeds=[0,1,2,3,4,5,6,7,8,9]' explain=false intervals=false \
  significance=false hydra.run.dir=$out/paper_outer_folds
python experiments/honest_table/run.py $out/all_predictors+$out/stack_raw $out/stack_curated $out/paper_outer_folds
