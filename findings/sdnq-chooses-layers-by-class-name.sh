#!/usr/bin/env bash
# SDNQ chooses layers by the name of their class, not by isinstance. A convolution of a class derived from nn.Conv2d is left in
# full precision, without a word, when a network is quantized; handed over alone it is quantized as a linear layer, and its
# first call raises a RuntimeError.
set -euo pipefail

packages=(sdnq==0.2.8 diffusers==0.42.1 torch==2.13.0 numpy==2.4.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: a derived convolution is quantized as the one it is, or refused."
"$python" -W ignore - <<'PYTHON' 2>&1 | grep -v -e OpenVINO -e torchao
import sys
from importlib.metadata import version

import sdnq
import torch

print(f"sdnq {version('sdnq')}, torch {torch.__version__}")


class Derived(torch.nn.Conv2d):
    pass


def convolution(kind):
    return kind(64, 64, 3, padding=1).eval().requires_grad_(False)


network = torch.nn.Sequential(convolution(torch.nn.Conv2d), convolution(Derived))
whole = sdnq.sdnq_post_load_quant(network, weights_dtype="int8", quant_conv=True)
types = [str(layer.weight.dtype) for layer in whole]
print(f"a network of both: {types}")

happens = {}
for kind in (torch.nn.Conv2d, Derived):
    config = sdnq.SDNQConfig(weights_dtype="int8", quant_conv=True)
    layer, _ = sdnq.sdnq_quantize_layer(convolution(kind), config, torch_dtype=torch.float32)
    try:
        happens[kind.__name__] = f"{layer.weight.dtype}, {tuple(layer(torch.randn(1, 64, 8, 8)).shape)}"
    except RuntimeError as error:
        happens[kind.__name__] = f"{layer.weight.dtype}, then RuntimeError: {error}"
    print(f"{kind.__name__} alone: {happens[kind.__name__]}")
print("Happens: the derived one stays in float32 in a network, and raises when it was quantized alone.")
if types != ["torch.int8", "torch.float32"] or "(1, 64, 8, 8)" not in happens["Conv2d"] or (
    "RuntimeError" not in happens["Derived"]
):
    sys.exit("This finding no longer holds.")
PYTHON
