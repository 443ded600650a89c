#!/usr/bin/env bash
# Gradio describes an endpoint's arguments to API and MCP clients from its docstring, and drops every line of an argument
# but the first: clients see half a sentence.
set -euo pipefail

packages=(gradio==6.31.0)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: an argument that is described in two indented lines is described in both."
GRADIO_ANALYTICS_ENABLED=False "$python" - <<'PYTHON'
import sys

import gradio
from gradio.utils import get_function_description


def draw(prompt: str, settings: dict) -> str:
    """Draw a picture.

    Args:
        prompt: what to draw.
        settings: numbers by name: the steps, the width,
            the height and the seed.
    """
    return prompt


with gradio.Blocks() as demo:
    gradio.api(draw, api_name="draw")
print(f"gradio {gradio.__version__}")
described = get_function_description(draw)[1]["settings"]
print(f"Happens: the client is told {described!r}.")
if described != "numbers by name: the steps, the width,":
    sys.exit("This finding no longer holds.")
PYTHON
