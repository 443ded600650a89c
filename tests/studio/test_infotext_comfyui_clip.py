"""What a ComfyUI graph says of its text encoder: the layer, and a text that its own rules read."""

from __future__ import annotations

import pytest

from tests.studio.comfyui_graphs import graph, node, read


@pytest.mark.parametrize(("layer", "setting"), [(-2, {"clip_skip": 2}), (-1, {"clip_skip": 1}), (-20, {})])
def test_the_layer_of_the_text_encoder_is_taken(layer, setting):
    data = graph()
    text = data[data["3"]["inputs"]["positive"][0]]
    data["90"] = node("CLIPSetLastLayer", stop_at_clip_layer=layer, clip=text["inputs"]["clip"])
    text["inputs"]["clip"] = ["90", 0]
    restored = read(data)
    assert restored.values["made_like"] == {"key": "comfyui", **setting}
    assert ("not followed" in restored.equality) == (not setting)


def test_brackets_are_left_as_they_stand_where_comfyuis_rules_read_them():
    data = graph()
    data[data["3"]["inputs"]["positive"][0]]["inputs"]["text"] = "a [fox] \\(red\\) AND BREAK"
    restored = read(data)
    assert restored.values["prompt"] == "a [fox] \\(red\\) AND BREAK"
    assert restored.equality.startswith("Same as ComfyUI")
