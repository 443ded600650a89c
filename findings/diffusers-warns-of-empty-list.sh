#!/usr/bin/env bash
# Some models of diffusers name parts that stay in float32. `to(dtype)` warns when such a model is cast, and tells which
# parts are meant. It does so for every model: for one that names none, the list in the warning is empty.
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

echo "Expected: a model none of whose parts has to stay in float32 is cast without a warning."
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import logging
import sys

import diffusers
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

print(f"diffusers {diffusers.__version__}")
said = []


class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


logging.getLogger("diffusers.models.modeling_utils").addHandler(Keep())


def cast(model):
    said.clear()
    model.to(torch.bfloat16)
    name = type(model).__name__
    print(f"{name}: names {model._keep_in_fp32_modules}; cast to bfloat16: {said}")
    return model._keep_in_fp32_modules is None and len(said) == 1 and "kept in float32: []" in said[0]


small = UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)
if not (cast(small) and cast(AutoencoderTiny())):
    sys.exit("This finding no longer holds.")
PYTHON
