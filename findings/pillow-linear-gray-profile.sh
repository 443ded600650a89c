#!/usr/bin/env bash
# Pillow (with its Little CMS) converts a picture of a linear gray profile to sRGB up to ten levels off, unless its
# optimization of the transform is turned off.
set -euo pipefail

packages=(pillow==12.3.0 numpy==2.4.1)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: every gray level lands within one level of sRGB's curve (IEC 61966-2-1) of its linear light."
"$python" - <<'PYTHON'
import io
import struct
import sys

import numpy as np
import PIL
from PIL import Image, ImageCms


def tag(kind, content):
    return kind + bytes(4) + content


# A valid ICC 2.1 profile: gray, its tone curve a power of exactly 1 (linear light), the white that of D50.
white = tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061))
curve = tag(b"curv", struct.pack(">IHxx", 1, 256))
text = b"linear gray"
described = tag(b"desc", struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67))
described += bytes(-len(described) % 4)
parts = [(b"desc", described), (b"wtpt", white), (b"cprt", tag(b"text", b"none\0\0\0\0")), (b"kTRC", curve)]
table, body, start = b"", b"", 132 + 12 * len(parts)
for name, content in parts:
    table += name + struct.pack(">II", start + len(body), len(content))
    body += content
header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
data = header.ljust(128, b"\0") + struct.pack(">I", len(parts)) + table + body

levels = np.arange(256, dtype=np.uint8)
light = levels / 255
expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055) * 255
picture = Image.fromarray(levels[None])
off = {}
for name, flags in (("by default", 0), ("with NOOPTIMIZE", ImageCms.Flags.NOOPTIMIZE)):
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(data)), ImageCms.createProfile("sRGB"), "L", "RGB", flags=flags
    )
    converted = np.asarray(ImageCms.applyTransform(picture, transform))[0, :, 1].astype(float)
    off[name] = float(np.abs(converted - expected).max())
    worst = int(np.abs(converted - expected).argmax())
    print(f"Happens {name}: level {worst} becomes {converted[worst]:.0f}, expected {expected[worst]:.1f}")
print(f"Pillow {PIL.__version__}, Little CMS {ImageCms.core.littlecms_version}")
if not (off["by default"] > 5 and off["with NOOPTIMIZE"] <= 1):
    sys.exit("This finding no longer holds.")
PYTHON
