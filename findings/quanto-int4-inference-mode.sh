#!/usr/bin/env bash
# Layers that optimum-quanto has frozen in four bits run under `torch.no_grad()` and raise a RuntimeError under
# `torch.inference_mode()`, PyTorch's recommended mode for inference; those in eight bits run under both. Needs a C++ compiler.
set -euo pipefail

packages=(optimum-quanto==0.2.7 torch==2.13.0 numpy==2.4.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: a layer with frozen weights gives the same under no_grad and under inference_mode."
"$python" -W ignore - <<'PYTHON'
import sys

import torch
from optimum import quanto

print(f"optimum-quanto {quanto.__version__}, torch {torch.__version__}")
happens = {}
for form in ("qint8", "qint4"):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(256, 256)).eval()
    quanto.quantize(network, weights=getattr(quanto, form))
    quanto.freeze(network)
    inputs = torch.randn(4, 256)
    for mode in (torch.no_grad, torch.inference_mode):
        try:
            with mode():
                network(inputs)
            happens[form, mode.__name__] = "runs"
        except RuntimeError as error:
            happens[form, mode.__name__] = f"RuntimeError: {error}"
        print(f"{form}, {mode.__name__}: {happens[form, mode.__name__]}")
print("Happens: in four bits the layer raises in inference mode.")
if happens["qint4", "no_grad"] != "runs" or happens["qint8", "inference_mode"] != "runs" or (
    "version_counter" not in happens["qint4", "inference_mode"]
):
    sys.exit("This finding no longer holds.")
PYTHON
