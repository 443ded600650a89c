#!/usr/bin/env bash
# AutoencoderKL's shift_factor is None by default: no shift. The pipeline of Stable Diffusion 3 runs all its steps with
# such an autoencoder, and then fails where the picture is decoded.
set -euo pipefail

packages=(diffusers==0.42.1 transformers==5.24.0 torch==2.13.0 accelerate==1.15.0)
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -z "${REUSE:-}" ]; then
    "$python" -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: an autoencoder without a shift decodes as one whose shift is 0, or is refused before the steps."
cd "$work"
HF_HUB_OFFLINE=1 "$python" - 2>/dev/null <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

print(f"diffusers {diffusers.__version__}")


def draw(**shift):
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **shift)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16, pos_embed_max_size=8,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, None, None
    )
    pipeline.set_progress_bar_config(disable=True)
    done = []
    try:
        pipeline(
            prompt_embeds=torch.zeros(1, 4, 16), pooled_prompt_embeds=torch.zeros(1, 16), guidance_scale=1.0,
            height=8, width=8, num_inference_steps=3, output_type="np",
            callback_on_step_end=lambda pipe, step, time, values: done.append(step) or values,
        )
    except TypeError as error:
        return len(done), f"TypeError: {error}"
    return len(done), "a picture"


print(f"AutoencoderKL's own default: shift_factor = {AutoencoderKL().config.shift_factor}")
without, zero = draw(), draw(shift_factor=0.0)
print(f"shift_factor None: {without[0]} of 3 steps, then {without[1]}")
print(f"shift_factor 0.0:  {zero[0]} of 3 steps, then {zero[1]}")
if without[0] != 3 or not without[1].startswith("TypeError") or zero != (3, "a picture"):
    sys.exit("This finding no longer holds.")
PYTHON
