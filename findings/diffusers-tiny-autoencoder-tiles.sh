#!/usr/bin/env bash
# AutoencoderTiny can be built with any number of levels, each of which doubles a side. Its tiles take it for granted that
# there are four: the factor by which they grow is computed as 2 to the number of the picture's color channels, which is
# three by chance as well.
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

echo "Expected: with enable_tiling() a decoded picture has the size that it has without."
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import AutoencoderTiny

print(f"diffusers {diffusers.__version__}")


def decode(levels):
    torch.manual_seed(0)
    widths, blocks = (8,) * levels, (1,) * levels
    model = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    ).eval()
    latents = torch.randn(1, 4, 80, 80)
    with torch.no_grad():
        whole = tuple(model.decode(latents).sample.shape)
        model.enable_tiling()
        try:
            tiled = tuple(model.decode(latents).sample.shape)
        except RuntimeError as error:
            tiled = f"RuntimeError: {error}"
    print(f"{levels} levels: whole {whole}, in tiles {tiled}")
    return whole == tiled


if (decode(4), decode(3), decode(2)) != (True, False, False):
    sys.exit("This finding no longer holds.")
PYTHON
