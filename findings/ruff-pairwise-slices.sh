#!/usr/bin/env bash
# The fix of ruff's rule RUF007 replaces zip(x[2:], x[3:]) by itertools.pairwise(x) and so drops the start of the slices: the
# loop then also runs over the first elements. The fix is marked unsafe, and its message does not say why.
set -euo pipefail

packages=(ruff==0.17.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: the fixed program prints what the program printed: True."
"$python" - <<'PYTHON'
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """rates = [3, 1, 2, 2, 1]
print(all(a >= b for a, b in zip(rates[2:], rates[3:], strict=False)))
"""


def run(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout.strip()


with tempfile.TemporaryDirectory() as folder:
    program = Path(folder) / "program.py"
    program.write_text(PROGRAM)
    before = run(str(program))
    print(run("-m", "ruff", "--version"))
    run("-m", "ruff", "check", "--isolated", "--select", "RUF007", "--fix", "--unsafe-fixes", str(program))
    after = run(str(program))
    print(program.read_text())
print(f"Happens: {before} before the fix, {after} after it.")
if (before, after) != ("True", "False"):
    sys.exit("This finding no longer holds.")
PYTHON
