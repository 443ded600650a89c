#!/usr/bin/env bash
# Skip-layer guidance takes the layers to leave out as numbers, as its documentation says. diffusers' guider accepts them
# and fails at the first perturbed evaluation. A configuration object is taken instead, and then a skipped block of Stable
# Diffusion 3 hands on its two streams the wrong way round.
set -euo pipefail

packages=(diffusers==0.42.1 transformers==5.24.0 torch==2.13.0 accelerate==1.15.0)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: SkipLayerGuidance(skip_layer_guidance_layers=[1]) leaves block 1 out of its third evaluation."
"$python" - 2>/dev/null <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import SD3Transformer2DModel
from diffusers.guiders import SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig, apply_layer_skip

print(f"diffusers {diffusers.__version__}")
torch.manual_seed(0)
model = SD3Transformer2DModel(
    sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=2,
    joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16, pos_embed_max_size=8,
).eval()


def prepare(**layers):
    guider = SkipLayerGuidance(skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0, **layers)
    guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor([500]))
    for _ in range(guider.num_conditions):
        guider.prepare_models(model)
        guider.cleanup_models(model)
    return guider.num_conditions


try:
    prepare(skip_layer_guidance_layers=[1])
except TypeError as error:
    print(f"Happens: TypeError: {error}")
else:
    sys.exit("This finding no longer holds.")
apply_layer_skip(model, LayerSkipConfig(indices=[1]))
text, picture = model.transformer_blocks[1](
    hidden_states=torch.zeros(1, 16, 8), encoder_hidden_states=torch.zeros(1, 5, 8), temb=torch.zeros(1, 8)
)
print("A LayerSkipConfig is taken. The skipped block, which returns text and picture, was given 5 tokens of text and 16 of")
print(f"the picture; happens: it returns {text.shape[1]} and {picture.shape[1]}.")
if (text.shape[1], picture.shape[1]) != (16, 5):
    sys.exit("This finding no longer holds.")
PYTHON
