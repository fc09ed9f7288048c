#!/usr/bin/env bash
# From a bare machine to a trained and evaluated UperNet + ATMNet on images of shapes. STACK and PYTHON choose the
# environment, as tools/setup.sh says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh
export PATH="$PWD/$(tools/setup.sh --where)/bin:$PATH"

config=configs/upernet_atmnet_mini_shapes.py
work_dir=work_dirs/upernet_atmnet_mini_shapes
rm -rf "$work_dir"
python tools/make_shapes.py data/shapes
python tools/train.py "$config" --cfg-options randomness.seed=0
checkpoint=$(cat "$work_dir/last_checkpoint")
python tools/test.py "$config" "$checkpoint"
python tools/draw_segmentation.py "$config" "$checkpoint"
