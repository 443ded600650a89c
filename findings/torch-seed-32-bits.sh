#!/usr/bin/env bash
# Two CPU generators of PyTorch whose 64-bit seeds differ only above bit 31 draw the same numbers: the Mersenne Twister is
# seeded with the low 32 bits. initial_seed() still returns all 64.
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

echo "Expected: seeds 5 and 5 + 2**32 draw different numbers."
"$python" - <<'PYTHON'
import sys

import torch


def draw(seed: int) -> torch.Tensor:
    return torch.randn(16, generator=torch.Generator("cpu").manual_seed(seed))


low, high = 5, 5 + 2**32
same = torch.equal(draw(low), draw(high))
print(f"torch {torch.__version__}")
print(f"initial_seed() of the second: {torch.Generator('cpu').manual_seed(high).initial_seed()}")
print(f"Happens: seeds {low} and {high} draw {'the same' if same else 'different'} numbers.")
print(f"Seeds {low} and {low + 1} draw {'the same' if torch.equal(draw(low), draw(low + 1)) else 'different'} numbers.")
if not same or torch.equal(draw(low), draw(low + 1)):
    sys.exit("This finding no longer holds.")
PYTHON
