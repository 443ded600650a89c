#!/usr/bin/env bash
# `interpolate(mode="bicubic")` uses one cubic kernel (a = -0.75) and with antialias=True another (a = -0.5): enlarging, where
# nothing can alias, gives two different pictures. Only the second is Pillow's.
set -euo pipefail

packages=(torch==2.13.0 numpy==2.4.6 pillow==12.3.0)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: antialias=True changes nothing where a picture is made larger, as it changes nothing for bilinear."
"$python" - <<'PYTHON'
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

print(f"torch {torch.__version__}, Pillow {Image.__version__}")
picture = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
pillow = np.asarray(Image.fromarray(picture.numpy()).resize((256, 256), Image.Resampling.BICUBIC))
results = {}
for mode in ("bilinear", "bicubic"):
    plain, smooth = (
        F.interpolate(picture[None, None], scale_factor=4, mode=mode, antialias=antialias, align_corners=False)[0, 0]
        for antialias in (False, True)
    )
    results[mode] = (plain - smooth).abs().max().item()
    print(f"{mode}: the two differ by up to {255 * results[mode]:.2f} of 255 levels")
inner = slice(16, -16)  # at the borders Pillow leaves taps out where torch repeats the edge
errors = [np.abs(part.numpy() - pillow)[inner, inner].max() for part in (plain, smooth)]
print(f"From Pillow's bicubic: {255 * errors[0]:.2f} levels without antialias, {255 * errors[1]:.4f} with it")
impulse = torch.zeros(9)
impulse[4] = 1
for antialias in (False, True):
    row = F.interpolate(impulse.expand(1, 1, 9, 9), scale_factor=2, mode="bicubic", antialias=antialias)[0, 0, 9]
    # at the distance 1.25 the kernel is a * (d^3 - 5 d^2 + 8 d - 4)
    print(f"antialias={antialias}: a = {row[11].item() / (1.25**3 - 5 * 1.25**2 + 8 * 1.25 - 4):.3f}")
print("Happens: bicubic enlarges by two kernels, which of them is chosen by antialias.")
if not (results["bilinear"] < 1e-5 and results["bicubic"] > 0.02 and errors[1] < 1e-5):
    sys.exit("This finding no longer holds.")
PYTHON
