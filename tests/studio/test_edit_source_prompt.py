"""The source prompt that the shipped judges suggest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.emoji.objects import shipped_catalog
from pipelines.models.catalog import SHIPPED
from pipelines.training.edits import edit_pairs, render_edit
from studio.page.edit.source_prompt import suggest_source_prompt


def test_the_classifier_says_what_most_pictures_show_and_nothing_of_noise():
    objects = shipped_catalog()
    pairs = edit_pairs(objects, 20, 5, ("replace",))
    read = [suggest_source_prompt(render_edit(pair, objects).source, "emoji") for pair in pairs]
    right = sum(text == pair.source_caption for text, pair in zip(read, pairs, strict=True))
    assert right >= 18 and all(text in ("", pair.source_caption) for text, pair in zip(read, pairs, strict=True))
    named = []
    for photograph in sorted((Path(SHIPPED).parents[1] / "examples" / "photographs").glob("*.jpg")):
        with Image.open(photograph) as image:
            named.append(suggest_source_prompt(image, "emoji"))
    assert len(named) > 3 and sum(map(bool, named)) <= 1  # a rocket in the night may pass for something else
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert (
        suggest_source_prompt(noise, "emoji") == "" == suggest_source_prompt(render_edit(pairs[0], objects).source, "x")
    )
