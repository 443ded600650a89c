#!/usr/bin/env bash
# addcmul(bias, x, scale) with one scale and one bias a row, in bfloat16 on a CPU, takes several times as long as a product and
# a sum of two calls. In float32 it does not.
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

echo "Expected: one fused call takes at most as long as two."
OMP_NUM_THREADS=1 "$python" -W ignore - <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")


def least(work):
    seconds = []
    for _ in range(30):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


ratios = {}
for dtype in (torch.float32, torch.bfloat16):
    inputs, out = torch.randn(1280, 4096).to(dtype), torch.empty(1280, 4096, dtype=dtype)
    scale, bias = torch.rand(1280, 1).to(dtype), torch.randn(1280, 1).to(dtype)
    one = least(lambda: torch.addcmul(bias, inputs, scale, out=out))
    two = least(lambda: torch.mul(inputs, scale, out=out).add_(bias))
    ratios[dtype] = one / two
    print(f"{dtype}: addcmul {1000 * one:.2f} ms, mul and add {1000 * two:.2f} ms, ratio {one / two:.1f}")
print("Happens: in bfloat16 the one call takes several times as long as the two.")
if ratios[torch.bfloat16] < 2 or ratios[torch.float32] > 2:
    sys.exit("This finding no longer holds.")
PYTHON
