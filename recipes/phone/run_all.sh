#!/usr/bin/env bash
# Every run behind RESULTS.md. About an hour on two idle cores; a killed run goes on where it was.
# Usage: recipes/phone/run_all.sh [CORPUS_ROOT] [OUT]
set -euo pipefail
root=${1:-../shared/corpora} out=${2:-runs}
here=$(dirname "$0")

run() { # NAME RECIPE [KEY=VALUE …]
  local name=$1 recipe=$2 sets=()
  shift 2
  for set in "$@"; do sets+=(--set "$set"); done
  spkadapt run "$here/$recipe.yaml" --out "$out" --set "corpus.root=$root" --set "name=phone/$name" ${sets[@]+"${sets[@]}"}
}

for recipe in source_only coral mmd dann; do
  run "$recipe" "$recipe"
done
for method in dbn vae; do
  run "source_only-$method" source_only "pretrain.method=$method"
done
run source_only-frozen source_only pretrain.strategy=frozen
run source_only-scratch source_only pretrain.strategy=none
run mmd-scratch mmd pretrain.strategy=none
run dann-scratch dann pretrain.strategy=none

spkadapt report "$out"/phone/{source_only,coral,mmd,dann,source_only-{scratch,dbn,vae,frozen},mmd-scratch,dann-scratch} \
  --out "$out/phone"
spkadapt report "$out"/phone/{source_only,mmd,dann}-scratch --out "$out/phone/scratch"
