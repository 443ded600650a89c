#!/usr/bin/env bash
# Pillow merges equal neighboring frames of an animation into one with a longer duration, for WebP, GIF and PNG. The
# duration is right, the number of frames is not what was saved.
set -euo pipefail

packages=(pillow==12.3.0)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: six saved frames are read back as six frames."
"$python" - <<'PYTHON'
import io
import sys

import PIL
from PIL import Image

frames = [Image.new("RGB", (16, 16), color) for color in ("red", "red", "red", "blue", "blue", "green")]
print(f"Pillow {PIL.__version__}")
held = True
for name in ("WEBP", "GIF", "PNG"):
    file = io.BytesIO()
    frames[0].save(file, name, save_all=True, append_images=frames[1:], duration=100, loop=0)
    with Image.open(file) as picture:
        durations = []
        for index in range(picture.n_frames):
            picture.seek(index)
            picture.load()
            durations.append(round(picture.info["duration"]))
    print(f"Happens: {name} has {len(durations)} frames of {durations} ms.")
    held &= durations == [300, 200, 100]
if not held:
    sys.exit("This finding no longer holds.")
PYTHON
