#!/usr/bin/env bash
# Every run behind RESULTS.md, and those it says were not run. A few hours on two cores; a killed run goes on where it was.
# Usage: recipes/phone/run_all.sh [CORPUS_ROOT] [OUT]
set -euo pipefail
root=${1:-../shared/corpora} out=${2:-runs}
here=$(dirname "$0")

recipes=("$here/initial.yaml" "$here/source_only.yaml")  # the start, and what the others are compared with
for recipe in "$here"/*.yaml; do
  case $(basename "$recipe" .yaml) in
    initial | source_only | *_long) ;;
    *) recipes+=("$recipe") ;;
  esac
done
spkadapt run "${recipes[@]}" --out "$out" --set "corpus.root=$root"
spkadapt run "$here"/source_only_long.yaml "$here"/voiced_{calls,pseudo_speakers}_long.yaml --out "$out" \
  --set "corpus.root=$root"
for family in '' _long; do # each compared with the source-only run of its own budget
  runs=()
  for run in "$out"/phone/*/; do
    case $(basename "$run") in
      initial | source_only | source_only_long) ;;
      *_long) [[ $family ]] && runs+=("$run") ;;
      *) [[ $family ]] || runs+=("$run") ;;
    esac
  done
  spkadapt report "$out/phone/source_only$family" "${runs[@]}" --out "$out/report$family"
done
