"""The Video tab offers a model's guidance as its pipeline reads it, and what is hidden is not sent."""

from __future__ import annotations

import pytest
from PIL import Image

from pipelines.models.video_models import VIDEO_MODELS
from studio.backend import Studio, StudioSettings
from studio.page.video.form import find_uploaded
from tests.studio.page_forms import built, read_after, shown

REQUEST = {"prompt": "a red fox", "guidance": {"key": "cfg", "guidance_scale": 5.0, "guidance_rescale": 0.4}}
METHOD = {"key": "pipeline", "true_guidance_scale": 6.0}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    studio = Studio(StudioSettings(outputs=home / "outputs", models=home / "models", device="cpu"))
    yield built(studio).tabs["animate"]
    studio.close()


@pytest.mark.parametrize(
    "model", ["wan21-1.3b", "ltx-video", "ltx-2", "hunyuan-video", "emoji", "animatediff", "emoji-128-motion"]
)
def test_guidance_is_offered_as_the_pipeline_reads_it(tab, model):
    entry = tab.form.get_entry(model)
    assert entry.key == model
    known = VIDEO_MODELS.get(entry.pipeline)
    our_loop = model in ("emoji", "animatediff", "emoji-128-motion")
    guidance, method = tab.form.methods["guidance"].panel, tab.method.panel
    updates = tab.updates({"form": {"model": model}, "method": {"key": tab.method.table.fitting(entry)[0].key}})
    hidden = updates[guidance.altered]["cfg"]["guidance_rescale"]["hidden"]
    assert hidden == (not (our_loop or known.rescales))
    assert guidance.read(updates, "cfg").get("guidance_rescale", 0) == (0.7 if model == "ltx-2" else 0)
    hidden = updates[method.altered]["pipeline"]["true_guidance_scale"]["hidden"]
    assert hidden == (not (known and known.true_guidance))


@pytest.mark.parametrize("model", ["wan21-1.3b", "ltx-video", "hunyuan-video"])
def test_what_is_hidden_is_not_sent(tab, model):
    values = read_after(tab, tab.updates({"form": {"model": model, **REQUEST}, "method": METHOD}))
    known = VIDEO_MODELS[tab.form.get_entry(model).pipeline]
    assert values["base"]["guidance"].get("guidance_rescale", 0) == (0.4 if known.rescales else 0)
    assert values["base"]["guidance"]["guidance_scale"] == 5.0
    assert values["method"].get("true_guidance_scale", 1) == (6.0 if known.true_guidance else 1)


@pytest.mark.parametrize(
    ("change", "model", "prompt"),
    [
        ({}, "emoji-128-motion", "a fox bouncing on a blue background"),
        ({"prompt": "small rocket on black"}, "emoji-128-motion", "small rocket bouncing on a black background"),
        ({"prompt": "a fox"}, "emoji-128-motion", "a fox bouncing"),
        ({"prompt": "a fox left of a cat face on a blue background"}, "emoji-128", None),  # it moves one object
        ({"prompt": "three foxes"}, "emoji-128", None),
        ({"prompt": "Napoleon"}, "emoji-128", None),
        ({"model": "emoji"}, "emoji", None),
        ({"model": "emoji-128-flow"}, "emoji-128-flow", None),
        ({"loras": [{"key": "emoji-128-four-steps", "weight": 1.0}]}, "emoji-128", None),
    ],
)
def test_a_picture_moves_by_the_model_of_clips_on_its_own_model(tab, change, model, prompt):
    picture = tab.studio.store.folder / "fox.png"  # as results are sent: a run takes none but uploaded pictures
    Image.new("RGB", (128, 128), "orange").save(picture)
    values = {
        "model": "emoji-128",
        "prompt": "a fox on a blue background",
        "seed": 3,
        "picture": str(picture),
        **change,
    }
    updates = tab._receive(values)
    given = find_uploaded(updates.pop(tab.clip.picture))
    assert given != picture and given.read_bytes() == picture.read_bytes()
    sent = read_after(tab, updates)
    assert (sent["base"]["model"], sent["base"]["prompt"]) == (model, prompt or values["prompt"])
    assert sent["method"]["key"] == ("animatediff" if prompt else "walk")
    assert sent.get("keys", []) == ([] if prompt else [{"seed": 4}])


def test_a_first_frame_survives_a_reload_as_long_as_its_file_is_there(tab):
    picture = tab.studio.store.folder / "owl.png"
    Image.new("RGB", (128, 128), "brown").save(picture)
    values = {"model": "emoji-128", "prompt": "an owl", "seed": 3, "picture": str(picture)}
    updates = tab._receive(values)
    typed = tab._draft(shown(tab._inputs, updates))
    given = updates[tab.clip.picture]
    assert tab._refill(typed)[tab.clip.picture] == given
    find_uploaded(given).unlink()
    assert "first_frame" not in tab._draft(shown(tab._inputs, updates))
    refilled = tab._refill(typed)
    assert tab.clip.picture not in refilled  # and all else is there
    assert shown(tab._inputs, refilled)[tab.form.fields["prompt"]] == "an owl bouncing"
