#!/usr/bin/env bash
# Gradio names the file of a shown picture by its content, and writes it anew, in place, each time that the same picture is
# shown: an event that reads the file in that moment, because it was given it as its input, finds half a picture.
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

echo "Expected: a picture that gradio has put into its folder can be read from there at any time."
GRADIO_ANALYTICS_ENABLED=False "$python" - <<'PYTHON'
import sys
import tempfile
import threading

import gradio
import numpy
from PIL import Image

print(f"gradio {gradio.__version__}")
noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (512, 512, 3), numpy.uint8))
with tempfile.TemporaryDirectory() as folder:
    component = gradio.Image(format="png")
    component.GRADIO_CACHE = folder
    path = component.postprocess(noise).path
    over = threading.Event()

    def show():
        while not over.is_set():
            component.postprocess(noise)

    writers = [threading.Thread(target=show) for _ in range(2)]
    for writer in writers:
        writer.start()
    broken = 0
    for _ in range(2000):
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError):
            broken += 1
    over.set()
    for writer in writers:
        writer.join()
print(f"Happens: {broken} of 2000 reads found no whole picture while two events showed the same one again.")
if not broken:
    sys.exit("This finding no longer holds.")
PYTHON
