#!/usr/bin/env bash
# On CPUs a convolution of many channels over a small grid takes longer in `conv2d` than as `unfold` and one product of
# matrices: the weights are brought into another order in every call. The lowest level of a Stable Diffusion UNet is such.
set -euo pipefail

packages=(torch==2.13.0 numpy==2.4.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: conv2d is at least as fast as unfold, which copies each value nine times, and a product of matrices."
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, processor time")
rows, channels, ratios = 2, 1280, {}
weight = torch.randn(channels, channels, 3, 3) * 0.02
packed = torch.ops.mkldnn._reorder_convolution_weight(weight, [1, 1], [1, 1], [1, 1], 1, [rows, channels, 4, 4])


def least(function, repeats=9):
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def product(picture):
    side = picture.shape[-1]
    columns = F.unfold(picture, 3, padding=1).transpose(0, 1).reshape(-1, rows * side**2)
    return (weight.view(channels, -1) @ columns).view(channels, rows, side, side).transpose(0, 1)


with torch.no_grad():
    for side in (4, 8, 16):
        picture = torch.randn(rows, channels, side, side)
        torch.testing.assert_close(product(picture), F.conv2d(picture, weight, padding=1), rtol=0, atol=1e-4)
        seconds = [
            least(lambda: F.conv2d(picture, weight, padding=1)),
            least(lambda: product(picture)),
            least(lambda: torch.ops.mkldnn._convolution_pointwise(
                picture, packed, None, [1, 1], [1, 1], [1, 1], 1, "none", [], ""
            )),
        ]
        ratios[side] = seconds[0] / seconds[1]
        conv, matrix, ordered = (f"{1000 * value:.1f} ms" for value in seconds)
        print(
            f"{rows} rows, {channels} channels, {side} x {side}: conv2d {conv}, unfold and product {matrix}, "
            f"conv2d's kernel with weights in its order {ordered}"
        )
print(f"Happens: at 4 x 4 conv2d takes {ratios[4]:.1f} times as long as the product of matrices.")
if ratios[4] < 1.3:
    sys.exit("This finding no longer holds.")
PYTHON
