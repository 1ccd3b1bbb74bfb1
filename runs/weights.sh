#!/usr/bin/env bash
# The default weights and their unprotected twin, from a face folder and a teacher file: trained, packed in half
# precision into runs/weights/, calibrated on people they have not seen. Half a day on two CPU cores; run it
# again to go on where it stopped.
#   runs/weights.sh [--device cuda ...]     options go to every training
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make --no-print-directory setup
minusface=".venv/bin/minusface"
faces="../shared/faces/lfw-112x112"
protocol="../shared/faces/lfw-protocol"
for task in plain stage1 stage2; do
  run="runs/default/$task"
  resume=()
  if [ -f "$run/last/card.json" ]; then resume=(--resume); fi
  "$minusface" train "configs/default/$task.yaml" "${resume[@]}" "$@"
done
# The last checkpoint, not the best: nothing is chosen on the people it is tested on.
for name in default:stage2 default-plain:plain; do
  packed="runs/weights/${name%%:*}"
  "$minusface" pack "runs/default/${name##*:}/last" --out "$packed" --squeeze
  "$minusface" calibrate "$packed" --faces "$faces" --people "$protocol/peopleDevTest.txt"
done
"$minusface" evaluate runs/weights/default-plain runs/weights/default --name unprotected --name protected \
  --pairs "$protocol/pairsDevTest.txt" --faces "$faces" --draws 5 \
  --json runs/weights/evaluation.json --markdown runs/weights/evaluation.md
echo "written: runs/weights/default runs/weights/default-plain; next: minusface audit --checkpoint runs/weights/default \
--recognizer runs/weights/default-plain --data $faces --out runs/audit"
