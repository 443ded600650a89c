"""A true CLIP tokenizer over the captions' own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pipelines.core.errors import TrainingError
from pipelines.emoji.captions import caption
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS, sample_scene

__all__ = ["caption_corpus", "encode_captions", "train_tokenizer", "write_slow_tokenizer"]

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's own way to cut text into words: letters, single digits, runs of anything else
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\sa-z0-9]+")


def caption_corpus(catalog: Catalog, count: int = 20_000, seed: int = 0) -> list[str]:
    """Return captions, and every name and tag once, to learn words from."""
    rng = np.random.default_rng(seed)
    captions = [caption(sample_scene(catalog, index, "all"), catalog, rng) for index in range(count)]
    words = [word for item in catalog.objects for word in (*item.names, *item.tags)]
    return captions + words + list(BACKGROUNDS)


def encode_captions(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Encode captions, padded or cut to the tokenizer's own length: (B, tokens), integers."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_tokenizer(corpus: Iterable[str], vocabulary: int, tokens: int, folder: Path) -> CLIPTokenizer:
    """Learn a byte-level BPE in CLIP's form and write it as CLIP's files.

    Args:
        corpus: texts; merges are learned from their words, so words never seen split in parts.
        vocabulary: entries at most; at least the 512 bytes, the two marks and one merge.
        tokens: the length that texts are padded and cut to.
        folder: receives vocab.json, merges.txt, tokenizer.json and tokenizer_config.json.
    Raises: TrainingError when the vocabulary is too small for all bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary < 2 * len(alphabet) + 3:
        raise TrainingError(f"A vocabulary of {vocabulary} cannot hold all bytes: take 515 or more.")
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges_wanted = vocabulary - 2 * len(alphabet) - 2
    learner.train_from_iterator(
        _list_words(corpus),
        trainers.BpeTrainer(
            vocab_size=10 * vocabulary, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges_wanted]
    names = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(p) for p in merges)]
    entries = list(dict.fromkeys([*names, START, END]))
    vocab = {entry: number for number, entry in enumerate(entries)}
    # The library takes pairs, and declares lines.
    tokenizer = CLIPTokenizer(vocab=vocab, merges=cast("list[str]", merges), model_max_length=tokens)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_slow_tokenizer(tokenizer, folder)
    return CLIPTokenizer.from_pretrained(folder)


def write_slow_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write CLIP's own two files, vocab.json and merges.txt, beside tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary + "\n", "utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")


def _list_words(corpus: Iterable[str]) -> Iterable[str]:
    """Single words: CLIP marks each word's end and never merges across a space."""
    for text in corpus:
        yield from WORD.findall(text.lower())
