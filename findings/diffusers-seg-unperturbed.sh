#!/usr/bin/env bash
# Smoothed energy guidance (SEG) guides away from a network whose attention queries are blurred. diffusers' guider never
# blurs them: the third of its three evaluations equals the conditional one, bit for bit. Its blur alone has the two cases
# of its strength the wrong way round: every finite one takes the mean of all queries.
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

echo "Expected: the perturbed evaluation of SmoothedEnergyGuidance differs from the plain one, and a blur of 0.1 tokens"
echo "hardly changes a query while one of 5 tokens changes it much."
"$python" - 2>/dev/null <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import SD3Transformer2DModel
from diffusers.guiders import SmoothedEnergyGuidance
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceHook

print(f"diffusers {diffusers.__version__}")
torch.manual_seed(0)
model = SD3Transformer2DModel(
    sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=2,
    joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16, pos_embed_max_size=8,
).eval()
inputs = {
    "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 16),
    "pooled_projections": torch.randn(1, 16), "timestep": torch.tensor([500.0]), "return_dict": False,
}


def measure_distances(guider):
    """How far each of the guider's evaluations is from the plain network's."""
    with torch.no_grad():
        plain = model(**inputs)[0]
        guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor([500]))
        distances = []
        for _ in range(guider.num_conditions):
            guider.prepare_models(model)
            distances.append(float((model(**inputs)[0] - plain).abs().max()))
            guider.cleanup_models(model)
    return distances


distances = measure_distances(SmoothedEnergyGuidance(seg_guidance_layers=[1]))
print(f"Happens: its three evaluations are this far from the plain one: {[f'{d:.1e}' for d in distances]}")
handle = model.transformer_blocks[1].attn.to_q.register_forward_hook(
    lambda module, arguments, queries: queries.mean(1, keepdim=True).expand_as(queries)
)
with torch.no_grad():
    blurred = model(**inputs)[0]
    handle.remove()
    print(f"Queries of that block averaged by hand: {float((blurred - model(**inputs)[0]).abs().max()):.1e} away.")

queries = torch.randn(1, 16, 8)
blurred = {
    sigma: SmoothedEnergyGuidanceHook(sigma, 9999.9).post_forward(torch.nn.Identity(), queries.clone())
    for sigma in (0.1, 5.0)
}
mean = queries.mean(1, keepdim=True).expand_as(queries)
same = all(torch.allclose(value, mean, atol=1e-6) for value in blurred.values())
print(f"Happens: queries blurred by 0.1 and by 5 tokens are both the mean of all: {same}")
if any(distances) or not same:
    sys.exit("This finding no longer holds.")
PYTHON
