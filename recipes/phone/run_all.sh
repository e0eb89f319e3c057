#!/usr/bin/env bash
# Every run behind RESULTS.md. About 75 minutes on two cores; a killed run goes on where it was.
# Usage: recipes/phone/run_all.sh [CORPUS_ROOT] [OUT]
set -euo pipefail
root=${1:-../shared/corpora} out=${2:-runs}
here=$(dirname "$0")

run() { # NAME RECIPE [KEY=VALUE …]
  local name=$1 recipe=$2 sets=()
  shift 2
  for set in "$@"; do sets+=(--set "$set"); done
  spkadapt run "$here/$recipe.yaml" --out "$out" --set "corpus.root=$root" --set "name=phone/$name" "${sets[@]}"
}

for recipe in source_only coral mmd dann; do
  run "$recipe" "$recipe"
done
for recipe in source_only mmd; do
  run "$recipe-scratch" "$recipe" pretrain.strategy=none
  for method in dbn vae; do
    run "$recipe-$method" "$recipe" "pretrain.method=$method"
  done
done
run source_only-frozen source_only pretrain.strategy=frozen

spkadapt report "$out"/phone/{source_only,coral,mmd,dann,source_only-{scratch,dbn,vae,frozen},mmd-{scratch,dbn,vae}} \
  --out "$out/phone"
