#!/usr/bin/env bash
# The demo: a photo becomes a protected image that is still recognised. Arguments go to `minusface demo`:
#   runs/demo.sh --photo me.jpg --faces ../faces --minutes 4
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
make --no-print-directory -C "$root" setup
exec "$root/.venv/bin/minusface" demo "$@"
