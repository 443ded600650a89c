#!/usr/bin/env bash
# The schedulers' `add_noise` computes sqrt(1 - alpha_bar) in the samples' own precision. In bfloat16 the first alphas round
# to 1, so low noise is not added at all, and the next levels are up to a quarter off.
set -euo pipefail

packages=(diffusers==0.42.1 transformers==5.24.0 torch==2.13.0 numpy==2.4.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: noise added in bfloat16 has the schedule's level within the format's precision, one part in 256."
"$python" - <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion 1.5
times = [0, 1, 2, 5, 10, 20, 50, 200]
holds = True
for kind in (DDPMScheduler, DDIMScheduler, LCMScheduler):
    scheduler = kind(**schedule)
    ratios = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        picture, noise = torch.zeros(1, 4, 8, 8, dtype=dtype), torch.ones(1, 4, 8, 8, dtype=dtype)
        noisy = [scheduler.add_noise(picture, noise, torch.tensor([time])).double().mean().item() for time in times]
        true = [(1 - scheduler.alphas_cumprod[time].double()).sqrt().item() for time in times]
        ratios[dtype] = [one / other for one, other in zip(noisy, true)]
        print(f"{kind.__name__}, {str(dtype)[6:]}:", ", ".join(f"t={t} {r:.3f}" for t, r in zip(times, ratios[dtype])))
    exact = all(abs(ratio - 1) < 1e-3 for ratio in ratios[torch.float32])
    holds &= exact and ratios[torch.bfloat16][0] == 0 and max(abs(ratio - 1) for ratio in ratios[torch.bfloat16][2:]) > 0.1
print("Happens: of the noise that the schedule asks for, bfloat16 gets the shares above: none at the first times.")
if not holds:
    sys.exit("This finding no longer holds.")
PYTHON
