#!/usr/bin/env bash
# Stable Diffusion 3 is often used without its T5 to save memory. diffusers saves such a pipeline without an error and
# notes in model_index.json that the part is absent; loading that folder is refused, until the absence is said again.
set -euo pipefail

packages=(diffusers==0.42.1 transformers==5.24.0 torch==2.13.0 accelerate==1.15.0)
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -z "${REUSE:-}" ]; then
    "$python" -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: a pipeline that save_pretrained wrote is read by from_pretrained of the same class."
cd "$work"
HF_HUB_OFFLINE=1 "$python" - 2>/dev/null <<'PYTHON'
import json
import sys
from pathlib import Path

import diffusers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

print(f"diffusers {diffusers.__version__}")
letters = "abcdefghijklmnopqrstuvwxyz"
words = [*letters, *(letter + "</w>" for letter in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
Path("vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
Path("merges.txt").write_text("#version: 0.2\na b\n")
tokenizer = CLIPTokenizer("vocab.json", "merges.txt", model_max_length=8)
config = CLIPTextConfig(
    vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=8, projection_dim=8, bos_token_id=53, eos_token_id=54,
)
pipeline = StableDiffusion3Pipeline(
    transformer=SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16, pos_embed_max_size=8,
    ),
    scheduler=FlowMatchEulerDiscreteScheduler(),
    vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, shift_factor=0.0),
    text_encoder=CLIPTextModelWithProjection(config),
    tokenizer=tokenizer,
    text_encoder_2=CLIPTextModelWithProjection(config),
    tokenizer_2=tokenizer,
    text_encoder_3=None,
    tokenizer_3=None,
)
pipeline.save_pretrained("saved")
noted = json.loads(Path("saved/model_index.json").read_text())["text_encoder_3"]
print(f"Happens: the saved model_index.json says text_encoder_3 = {noted}.")
try:
    StableDiffusion3Pipeline.from_pretrained("saved")
except ValueError as error:
    print(f"Loading it: ValueError: {str(error)[-170:]}")
else:
    sys.exit("This finding no longer holds.")
again = StableDiffusion3Pipeline.from_pretrained("saved", text_encoder_3=None, tokenizer_3=None)
print(f"With text_encoder_3=None, tokenizer_3=None said again it loads: {type(again).__name__}.")
sys.exit(noted != [None, None])
PYTHON
