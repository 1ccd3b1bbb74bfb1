#!/usr/bin/env bash
# The measured table, from nothing: unprotected, stage 1 and stage 2 on LFW's development people, tested on
# others. Hours on two CPU cores, minutes on a GPU; run it again to go on where it stopped.
#   runs/reproduce.sh [irlite|mobilefacenet] [--epochs 10 ...]     further options go to every training
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
net=irlite
case "${1:-}" in irlite | mobilefacenet) net="$1" && shift ;; esac
make --no-print-directory setup
minusface=".venv/bin/minusface"
protocol="../shared/faces/lfw-protocol"
for task in plain stage1 stage2; do
  run="runs/${task}_${net}_lfw"
  resume=()
  if [ -f "$run/last/card.json" ]; then resume=(--resume); fi
  "$minusface" train "configs/${task}_${net}_lfw.yaml" "${resume[@]}" "$@"
done
"$minusface" evaluate "runs/plain_${net}_lfw" "runs/stage1_${net}_lfw" "runs/stage2_${net}_lfw" \
  --name unprotected --name "residue (stage 1)" --name "protected (stage 2)" \
  --pairs "$protocol/pairsDevTest.txt" --faces ../shared/faces/lfw-112x112 --draws 5 \
  --json "runs/${net}_lfw.json" --markdown "runs/${net}_lfw.md" --roc "runs/${net}_lfw.png"
echo "written: runs/${net}_lfw.md .json .png"
