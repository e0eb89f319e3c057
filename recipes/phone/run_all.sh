#!/usr/bin/env bash
# Every run behind RESULTS.md, each compared with the source-only run of its own network and budget.
# Several hours on two cores; a killed run goes on where it was.
# Usage: recipes/phone/run_all.sh [CORPUS_ROOT] [OUT]
set -euo pipefail
root=${1:-../shared/corpora} out=${2:-runs}
here=$(dirname "$0")

short=(source_only) long=(source_only_long) residual=(residual_source_only) # first what the others are compared with
for recipe in "$here"/*.yaml; do
  name=$(basename "$recipe" .yaml)
  case $name in
    initial | source_only | source_only_long | residual_source_only) ;;
    *_long) long+=("$name") ;;
    residual_*) residual+=("$name") ;;
    *) short+=("$name") ;;
  esac
done

run() { # FAMILY NAME…: train and score, then compare
  local family=$1
  shift
  spkadapt run "${@/#/$here/}" --out "$out" --set "corpus.root=$root"
  local names=("${@%.yaml}")
  spkadapt report "${names[@]/#/$out/phone/}" --out "$out/report/$family"
  python "$here/tables.py" "$out/report/$family/results.json"
}

spkadapt run "$here/initial.yaml" --out "$out" --set "corpus.root=$root"
run short "${short[@]/%/.yaml}"
run long "${long[@]/%/.yaml}"
run residual "${residual[@]/%/.yaml}"

# Which of the residual runs to use: by all calls, or by those that no training sees; by the runs' own judgement, or by
# another extractor's.
files=("${residual[@]/%/.yaml}") held="$out/held_out"
spkadapt run "${files[@]/#/$here/}" --out "$held" --set "corpus.root=$root" --set corpus.target_domain.held_out=0.35
for runs in "$out" "$held"; do
  spkadapt select "${residual[@]/#/$runs/phone/}"
  for extractor in campplus resemblyzer; do
    spkadapt select "${residual[@]/#/$runs/phone/}" --judge "$root/embeddings/wuw2_$extractor.npz"
  done
done
