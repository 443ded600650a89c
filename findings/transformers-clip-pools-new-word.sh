#!/usr/bin/env bash
# A CLIP whose configuration says eos_token_id=2, as those of Stable Diffusion and SDXL do, pools at the greatest token id of
# the prompt. A word added to the vocabulary, as textual inversion adds them, has a greater id than the end: the pooled
# embedding, which SDXL and SD3 condition on, is then read at that word, and what follows it is not in it.
set -euo pipefail

packages=(transformers==5.24.0 torch==2.13.0 numpy==2.4.6)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi

echo "Expected: a new word with the vector of a known one gives the pooled embedding of the known word."
"$python" - <<'PYTHON' 2>/dev/null
import sys

import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
begin, end, known, new = 98, 99, 7, 100
errors = {}
for eos in (2, end):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=16,
        bos_token_id=begin, eos_token_id=eos, pad_token_id=end,
    )
    model = CLIPTextModelWithProjection(config).eval()
    model.resize_token_embeddings(101)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[new] = table[known]
        rows = [[begin, 5, word, 11, 12, end, end, end] for word in (known, new)]
        result = model(torch.tensor(rows))
    states = (result.last_hidden_state[0] - result.last_hidden_state[1]).abs().max().item()
    errors[eos] = (result.text_embeds[0] - result.text_embeds[1]).abs().max().item()
    print(f"eos_token_id={eos}: the words' embeddings differ by {states:.1e}, the pooled ones by {errors[eos]:.1e}")
print("Happens: with eos_token_id=2 the pooled embedding is that of the new word, not of the prompt's end.")
if not (errors[2] > 0.01 and errors[end] < 1e-5):
    sys.exit("This finding no longer holds.")
PYTHON
