"""The generator's truth: pictures, masks, captions and edits agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from pipelines.core.errors import TrainingError
from pipelines.emoji.captions import caption, parse, plain_caption
from pipelines.emoji.objects import Catalog, packaged_catalog, shipped_catalog
from pipelines.emoji.scenes import Placed, Scene, is_held_out, render, sample_scene
from pipelines.training.dataset import held_out_pairs
from pipelines.training.edits import DESCRIBED_KINDS, EDIT_KINDS, LEAST_MOVE, STYLES, edit_pair, edit_pairs, render_edit

CATALOGUE = shipped_catalog()
MODEL = CATALOGUE.folder.parents[1] / "models" / "emoji"


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_the_shipped_catalog_is_complete():
    assert len(CATALOGUE.objects) == 71
    names = [name for item in CATALOGUE.objects for name in item.names]
    assert len(names) == len(set(names))
    for label in CATALOGUE.labels:
        alpha = pixels(CATALOGUE.sprite(label, 64).getchannel("A"))
        assert alpha.min() == 0 and alpha.max() == 255, label


@pytest.mark.parametrize("size", [64, 128])
def test_masks_and_picture_agree(size):
    for seed in range(60):
        scene = sample_scene(CATALOGUE, seed, "all")
        drawn = render(scene, CATALOGUE, size)
        assert len(drawn.masks) == len(scene.objects)
        covered = np.max([pixels(mask) for mask in drawn.masks], axis=0)
        same = (pixels(drawn.picture) == pixels(drawn.backdrop)).all(axis=-1)
        assert same[covered == 0].all()
        assert (~same)[covered == 255].mean() > 0.8
        for placed, mask in zip(scene.objects, drawn.masks, strict=True):
            alone = render(dataclasses.replace(scene, objects=(placed,)), CATALOGUE, size)
            inside = pixels(mask) > 0
            assert inside.any()
            assert (pixels(alone.picture) == pixels(drawn.picture))[inside].all()


def test_two_objects_stand_on_their_own_sides():
    for seed in range(100):
        scene = sample_scene(CATALOGUE, seed, objects=2)
        left, right = (pixels(mask) for mask in render(scene, CATALOGUE).masks)
        assert (left > 0).any() and (right > 0).any()
        assert not left[:, 32:].any() and not right[:, :32].any()
        assert not ((left > 0) & (right > 0)).any()


def test_a_scene_depends_on_its_arguments_alone():
    assert sample_scene(CATALOGUE, 5) == sample_scene(CATALOGUE, 5)
    assert len({sample_scene(CATALOGUE, seed) for seed in range(50)}) == 50
    first, again = (render(sample_scene(shipped_catalog(), 5), shipped_catalog()) for _ in range(2))
    assert (pixels(first.picture) == pixels(again.picture)).all()


def test_one_object_in_four_fifths():
    counts = [len(sample_scene(CATALOGUE, seed).objects) for seed in range(2_000)]
    assert 0.17 < counts.count(2) / len(counts) < 0.23


def test_held_out_pairs_are_a_tenth_and_never_trained():
    pairs = held_out_pairs(CATALOGUE)
    assert 0.07 < len(pairs) / (71 * 12) < 0.13
    assert pairs == held_out_pairs(shipped_catalog())
    for seed in range(1_000):
        scene = sample_scene(CATALOGUE, seed)
        assert not any((placed.label, scene.background) in pairs for placed in scene.objects)
    for seed in range(100):
        scene = sample_scene(CATALOGUE, seed, "held-out", 1)
        assert (scene.objects[0].label, scene.background) in pairs


def test_the_held_out_list_never_changes():
    assert is_held_out("cat face", "red") == (("cat face", "red") in held_out_pairs(CATALOGUE))
    assert len(held_out_pairs(CATALOGUE)) == 88


def test_captions_are_read_back():
    rng = np.random.default_rng(0)
    named = 0
    for seed in range(3_000):
        scene = sample_scene(CATALOGUE, seed, "all")
        truth = parse(caption(scene, CATALOGUE, rng), CATALOGUE)
        assert truth.labels == tuple(placed.label for placed in scene.objects)
        assert truth.background in (scene.background, None)
        named += truth.background is not None
    assert 0.87 < named / 3_000 < 0.93


@pytest.mark.parametrize(
    ("text", "labels", "background"),
    [
        ("a fox on a blue background", ("fox",), "blue"),
        ("puppy", ("dog face",), None),
        ("a cat face left of a red heart on a green background", ("cat face", "red heart"), "green"),
        ("A star right of a ghost on black", ("ghost", "star"), "black"),
        ("an emoji of dog face, pet on an orange background", ("dog face",), "orange"),
    ],
)
def test_captions_of_a_person_are_read(text, labels, background):
    truth = parse(text, CATALOGUE)
    assert (truth.labels, truth.background) == (labels, background)


@pytest.mark.parametrize("text", ["a zebrafish on a blue background", "animal", "fox left of owl left of star"])
def test_captions_that_name_no_one_thing_are_refused(text):
    with pytest.raises(TrainingError):
        parse(text, CATALOGUE)


def test_a_tenth_of_the_captions_can_be_empty():
    rng, scene = np.random.default_rng(0), sample_scene(CATALOGUE, 0)
    empty = [caption(scene, CATALOGUE, rng, empty=0.1) == "" for _ in range(2_000)]
    assert 0.08 < np.mean(empty) < 0.12


@pytest.mark.parametrize("files", [None, ("vocab.json", "merges.txt")])
def test_captions_round_trip_through_the_tokenizer(files, tmp_path):
    folder = MODEL / "tokenizer"
    if files:
        for name in files:
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        folder = tmp_path
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    for seed in range(400):
        text = caption(sample_scene(CATALOGUE, seed), CATALOGUE, rng)
        read = tokenizer(text).input_ids
        back = tokenizer.decode(read, skip_special_tokens=True)
        assert back.replace(" ", "") == text.replace(" ", "")
        assert len(read) <= 24, text


def test_the_tokenizer_splits_words_never_seen():
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    parts = tokenizer.tokenize("xylophonist")
    assert len(parts) > 1 and "".join(parts) == "xylophonist</w>"
    assert tokenizer.tokenize("fox") == ["fox</w>"]
    assert tokenizer.unk_token_id not in tokenizer("xylophonist é 漢").input_ids[1:-1]


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_edit_pairs_differ_only_inside_the_mask(kind):
    for seed in range(40):
        pair = edit_pair(CATALOGUE, seed, kind)
        drawn = render_edit(pair, CATALOGUE)
        mask = pixels(drawn.mask)
        assert set(np.unique(mask)) <= {0, 255}
        differs = (pixels(drawn.source) != pixels(drawn.target)).any(axis=-1)
        assert not differs[mask == 0].any()
        assert differs[mask == 255].mean() > 0.5
        assert parse(pair.source_caption, CATALOGUE).labels == tuple(p.label for p in pair.source.objects)
        assert parse(pair.target_caption, CATALOGUE).background == pair.target.background
        assert (pair.source_caption != pair.target_caption) == (kind in DESCRIBED_KINDS)


def test_edit_pairs_keep_everything_else():
    for pair in edit_pairs(CATALOGUE, 100, seed=1):
        assert pair.source.shading_seed == pair.target.shading_seed
        assert (pair.source.background == pair.target.background) == (pair.kind != "background")
        places = [{(o.x, o.y, o.size) for o in scene.objects} for scene in (pair.source, pair.target)]
        if pair.kind in ("replace", "background", "swap", "one of two", "style"):
            assert places[0] == places[1]
        elif pair.kind in ("move", "resize"):
            before, after = pair.moved
            assert len(places[0] - places[1]) == len(places[1] - places[0]) == 1
            assert (before.size == after.size) == (pair.kind == "move")
            moved = max(abs(before.x - after.x), abs(before.y - after.y))
            assert moved >= LEAST_MOVE if pair.kind == "move" else moved == 0
        else:
            assert places[0] < places[1] or places[1] < places[0]
    assert edit_pairs(CATALOGUE, 10, seed=1) == edit_pairs(CATALOGUE, 10, seed=1)


def test_a_style_is_the_same_in_the_picture_that_shows_it_and_the_objects_own_mask_covers_it():
    for seed in range(12):
        pair = edit_pair(CATALOGUE, seed, "style")
        drawn = render_edit(pair, CATALOGUE)
        matrix = np.array(STYLES[pair.style])
        expected = np.clip(pixels(drawn.source) @ matrix.T, 0, 255)
        assert np.abs(expected - pixels(drawn.target)).max() <= 1 and pixels(drawn.mask).all()
        # Grey stays grey in both: the picture that shows the style obeys it, too.
        if pair.style == "grayscale":
            assert not np.ptp(pixels(drawn.style), axis=-1).any()
        moved = render_edit(edit_pair(CATALOGUE, seed, "move"), CATALOGUE)
        own, mask = pixels(moved.object_mask) > 0, pixels(moved.mask) > 0
        assert own.any() and not (own & ~mask).any() and (mask & ~own).any()


def test_errors_name_what_was_wrong(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="'trian'"):
        sample_scene(CATALOGUE, 0, "trian")
    with pytest.raises(TrainingError, match="'mauve'"):
        render(Scene((Placed("fox", 0.5, 0.5, 0.8),), "mauve"), CATALOGUE)
    with pytest.raises(TrainingError, match="'zebra'"):
        render(Scene((Placed("zebra", 0.5, 0.5, 0.8),), "red"), CATALOGUE)
    with pytest.raises(TrainingError, match="'melt'"):
        edit_pair(CATALOGUE, 0, "melt")
    with pytest.raises(TrainingError, match="cannot be read"):
        Catalog(CATALOGUE.objects, tmp_path).sprite("fox", 32)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match="npm is needed"):
        packaged_catalog(100, tmp_path / "cache")


def test_plain_captions_are_stable():
    scene = Scene((Placed("octopus", 0.26, 0.5, 0.45), Placed("grapes", 0.74, 0.5, 0.45)), "orange")
    assert plain_caption(scene) == "an octopus left of grapes on an orange background"
