#!/usr/bin/env bash
# torch.randn on the CPU fills a tensor of 16 or more elements in blocks of 16 (a smaller one singly), and the last 16
# anew where the size is no multiple of 16. A sample drawn alone is therefore not the first sample of a batch from the
# same seed, unless the size of a sample is a multiple of 16. One generator a sample makes a picture independent of
# its batch.
set -euo pipefail

packages=(torch==2.13.0 numpy)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: randn(2, n)[0] equals randn(n) of the same seed."
"$python" - <<'PYTHON'
import sys

import torch


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(5))


print(f"torch {torch.__version__}")
held = True
for size in (8, 15, 16, 17, 20, 32, 48, 100):
    differing = int((draw(size) != draw(2, size)[0]).sum())
    print(f"Happens: of a sample of {size:3d} elements, {differing:2d} differ in the batch.")
    held &= (differing == 0) == (size % 16 == 0)
if not held:
    sys.exit("This finding no longer holds.")
PYTHON
