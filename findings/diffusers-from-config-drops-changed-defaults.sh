#!/usr/bin/env bash
# The usual way to change one setting of a diffusers scheduler or model is to copy its configuration, change the value in
# the copy, and build another one of it. A configuration also lists which of its values nobody had given
# (`_use_default_values`), and `from_config` takes those names out of the dictionary before it reads it, whatever stands
# there by then. So the same change is heeded or dropped without a word, by whether the first object was made with that
# argument spelled out.
set -euo pipefail

packages=(diffusers==0.42.1 torch==2.13.0)
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -z "${REUSE:-}" ]; then
    "$python" -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: what from_config is given is what the new object has, in all three cases."
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import sys

import diffusers
from diffusers import DDIMScheduler, UNet2DModel

print(f"diffusers {diffusers.__version__}")


def change(first, name, value):
    config = {**first.config, name: value}
    made = type(first).from_config(config).config[name]
    print(f"{type(first).__name__}: {name} = {value} in the dictionary, {made} in the new object")
    return made == value


silent = change(DDIMScheduler(), "beta_schedule", "scaled_linear")
spelled_out = change(DDIMScheduler(beta_schedule="linear"), "beta_schedule", "scaled_linear")
blocks = {"block_out_channels": (32, 32), "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
layers = change(UNet2DModel(sample_size=8, **blocks), "layers_per_block", 1)
keyword = DDIMScheduler.from_config(DDIMScheduler().config, beta_schedule="scaled_linear").config.beta_schedule
print(f"As a keyword beside the configuration: {keyword}")

if (silent, spelled_out, layers, keyword) != (False, True, False, "scaled_linear"):
    sys.exit("This finding no longer holds.")
PYTHON
