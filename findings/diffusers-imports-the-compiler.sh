#!/usr/bin/env bash
# `import diffusers` loads its classes when they are first asked for. It does import PyTorch's compiler at once: one of its
# helpers takes a decorator from torch._dynamo, which brings sympy and the distributed packages with it.
set -euo pipefail

packages=(diffusers==0.42.1 torch==2.13.0 transformers==5.24.0)
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -z "${REUSE:-}" ]; then
    "$python" -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: where nothing is compiled, importing diffusers imports nothing of the compiler."
cd "$work"
"$python" - 2>/dev/null <<'PYTHON'
import sys
import time

import torch

before = set(sys.modules)
began = time.process_time()
import diffusers

seconds = time.process_time() - began
new = set(sys.modules) - before
of_compiler = {name for name in new if name.split(".")[0] in ("sympy", "mpmath") or name.startswith("torch.")}
print(f"diffusers {diffusers.__version__}, PyTorch {torch.__version__}")
print(f"import diffusers, PyTorch imported before: {len(new)} new modules in {seconds:.1f} s of one core")
print(f"of them {len(of_compiler)} of PyTorch and sympy, for the compiler: torch._dynamo is {'torch._dynamo' in new}")
if "torch._dynamo" in before or "torch._dynamo" not in new or "sympy" not in new or len(of_compiler) < len(new) / 2:
    sys.exit("This finding no longer holds.")
PYTHON
