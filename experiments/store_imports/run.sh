#!/usr/bin/env bash
# RESULTS and CARDS: folders of the paper's score files and model cards.
set -euo pipefail
results=$(realpath "${1:?run.sh RESULTS CARDS}")
cards=$(realpath "${2:?run.sh RESULTS CARDS}")
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m njsl.store create "$folder/paper.duckdb" --from paper
python -m njsl.store create "$folder/empty.duckdb"
summary() { python experiments/store_imports/summary.py "$@"; }
for database in empty paper; do
  python -m njsl.store import-evals "$folder/$database.duckdb" "$results" --dry-run --json 2>/dev/null > "$folder/evals.json" || true
  summary "scores into the $database database" "$folder/evals.json"
  python -m njsl.store add-model "$folder/$database.duckdb" "$cards" --dry-run --json 2>/dev/null > "$folder/cards.json" || true
  summary "model cards into the $database database" "$folder/cards.json"
done
