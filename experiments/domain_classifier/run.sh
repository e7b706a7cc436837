#!/usr/bin/env bash
# Fits and scores the local domain classifier on the paper's labelled documents; further overrides may follow.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${NJSL_PAPER_DATA:?the folder with fineweb_domains_gpt4omini.csv}"
OMP_NUM_THREADS=1 python tag.py mode=distil \
  "+distil.labelled={fineweb:{path:$NJSL_PAPER_DATA/fineweb_domains_gpt4omini.csv}}" "$@"
