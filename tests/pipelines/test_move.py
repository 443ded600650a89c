"""Moving, resizing and dragging: what is copied, what stays, what leads, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.types import Choice, Traits
from pipelines.edits import EDITS
from pipelines.edits.base import EditContext
from pipelines.edits.dragon import Correspondence, compute_energy, read_points
from pipelines.edits.placing import Placing, fill_hole, place_object
from pipelines.families import family_of
from pipelines.inversions.base import SOURCE, TARGET
from pipelines.requests.limits import Limits
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import Picture
from tests.pipelines.edit_requests import edited, request_of
from tests.pipelines.network_state import assert_unchanged, state_of
from tests.pipelines.tiny_models import tiny_sd

MOVE = Choice("move", {"right": 0.25, "down": -0.125})


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_sd().components)


@pytest.fixture(scope="module")
def picture():
    return Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def mask():
    drawn = np.zeros((32, 32), bool)
    drawn[12:20, 4:14] = drawn[10:12, 6:8] = True
    return Picture(drawn)


def test_an_object_is_copied_pixel_by_pixel_and_all_else_stays(picture, mask):
    placed = place_object(picture.pixels, mask.pixels, Placing(0.25, -0.125, 1.0))
    assert np.array_equal(placed.after, np.roll(mask.pixels, (-4, 8), (0, 1)))
    assert np.array_equal(placed.pixels[placed.after], picture.pixels[np.roll(placed.after, (4, -8), (0, 1))])
    elsewhere = ~placed.after & ~placed.before
    assert np.array_equal(placed.pixels[elsewhere], picture.pixels[elsewhere])
    stays = place_object(picture.pixels, mask.pixels, Placing(0.0, 0.0, 1.0))
    assert np.array_equal(stays.pixels, picture.pixels) and not stays.hole.any()


def test_a_resized_object_grows_about_its_middle_and_one_that_leaves_is_refused(picture, mask):
    grown = place_object(picture.pixels, mask.pixels, Placing(0.0, 0.0, 1.5)).after
    middle = [np.argwhere(places).mean(axis=0) for places in (mask.pixels, grown)]
    assert np.abs(middle[0] - middle[1]).max() < 1 and grown.sum() == pytest.approx(1.5**2 * mask.pixels.sum(), rel=0.1)
    with pytest.raises(SettingsError, match="leave the picture"):
        place_object(picture.pixels, mask.pixels, Placing(1.0, 0.0, 1.0))


def test_a_hole_in_a_slope_is_filled_with_the_slope():
    """A plane is harmonic: the mean of each pixel's neighbors."""
    rows, columns = np.mgrid[:24, :24]
    plane = np.stack([3 * rows + 5 * columns, 200 - 4 * rows, 7 * columns], axis=-1).astype(np.uint8)
    hole = np.zeros((24, 24), bool)
    hole[6:17, 5:15] = True
    filled = fill_hole(np.where(hole[..., None], np.uint8(255), plane), hole)
    assert np.abs(filled.astype(int) - plane).max() <= 2
    assert np.array_equal(filled[~hole], plane[~hole])


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_what_is_moved_is_exact_and_only_what_it_leaves_is_drawn(family, picture, mask, scale):
    request = request_of(picture, Choice("move", {**MOVE.settings, "scale": scale, "strength": 1.0}), mask)
    editing, _, steps = edited(family, request)
    canvas = editing.canvas
    drawn = (255 * np.random.default_rng(1).random(canvas.pixels.shape)).astype(np.uint8)
    finished, (source, placement) = canvas.paste(drawn), canvas.placed
    assert np.array_equal(finished[placement.after], placement.pixels[placement.after])
    outside = ~canvas.source_mask
    assert np.array_equal(finished[outside], source[outside]) and np.array_equal(source, picture.pixels)
    assert not np.array_equal(finished[placement.hole], placement.pixels[placement.hole])
    kept = ~editing.mask[0].expand_as(steps[-1].latents[0])
    assert torch.equal(steps[-1].latents[0][kept], editing.image_latents[0][kept])


@pytest.mark.parametrize(
    "edit", [Choice("dragon", dict(MOVE.settings)), Choice("dragon", {"points": "0.3,0.5 > 0.5,0.4"})]
)
def test_features_lead_the_edit_and_the_source_stays_exact(family, picture, mask, edit):
    before = state_of(family.network)
    editing, _, steps = edited(family, request_of(picture, edit, mask))
    assert_unchanged(family.network, before)
    free = edited(family, request_of(picture, Choice("dragon", {**edit.settings, "energy": 0.0}), mask))[2]
    source, target = steps[-1].latents
    assert torch.equal(source, editing.image_latents[0]) and not target.requires_grad
    outside = ~editing.mask[0].expand_as(source)
    assert torch.equal(target[outside], source[outside])
    assert not torch.equal(target, free[-1].latents[TARGET]) and torch.equal(source, free[-1].latents[SOURCE])


def test_the_energy_is_least_where_the_moved_features_are_those_of_the_source():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(8, 8, 8, generator=generator, dtype=torch.float64)
    before, after = torch.zeros(2, 1, 1, 8, 8, dtype=torch.bool)
    before[..., 2:5, 1:3], after[..., 2:5, 5:7] = True, True
    targets = (after[0, 0].nonzero().flip(-1) + 0.5) / 8
    match = Correspondence(targets - torch.tensor([0.5, 0.0]), targets, ~(before | after), before & ~after)
    moved = source.clone()
    moved[:, 2:5, 5:7] = source[:, 2:5, 1:3]
    # At likeness 1 what is moved and what stays cost w / 5; the place that is left still looks as before.
    fill = 0.8 / (1 + 4 * compute_fill(moved, source, match))
    assert compute_energy(moved, source, match).item() == pytest.approx(4 / 5 + 6 / 5 + 0.2 + fill, abs=1e-12)
    assert compute_energy(moved, source, match) < compute_energy(source, source, match)


def compute_fill(edit, source, match):
    left, stays = match.left[0, 0], match.stays[0, 0]
    cosine = torch.nn.functional.cosine_similarity(edit[:, left].mean(1), source[:, stays].mean(1), dim=0)
    return ((cosine + 1) / 2).item()


def test_what_cannot_be_moved_is_said_before_it_runs(family, picture, mask):
    limits, traits = Limits(), family.traits
    for edit in ("move", "dragon"):
        with pytest.raises(SettingsError, match="moves nothing"):
            request_of(picture, Choice(edit, {"right": 0.0}), mask).check(limits, traits)
        with pytest.raises(SettingsError, match="needs a mask"):
            request_of(picture, Choice(edit, {"right": 0.2}), None).check(limits, traits)
    request_of(picture, Choice("dragon", {"points": "0.1,0.2>0.3,0.4"}), mask).check(limits, traits)
    with pytest.raises(SettingsError, match="leave the picture"):
        canvas_of(request_of(picture, Choice("move", {"right": 1.0}), mask), (32, 32))
    for text, reason in (
        ("0.1,0.2", "cannot be read"),
        ("1,2,3 > 4", "cannot be read"),
        ("0.5,0.5 > 1.5,0", "outside"),
    ):
        with pytest.raises(SettingsError, match=reason):
            read_points(text)
    assert read_points(" 0,0 > 1,0.5 ; ") == [((0.0, 0.0), (1.0, 0.5))]
    with pytest.raises(MethodFitError, match="UNet"):
        EDITS["dragon"].require_fit(Traits("sd3", "flow", "transformer"))


def _build_dragon_match(mask, **settings):
    dragon = EDITS.build(Choice("dragon", settings))
    placement = place_object(np.zeros((*mask.shape, 3), np.uint8), mask, dragon.placing)

    def shrink(places):
        return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(places).float()[None, None], 16) >= 0.5

    before, after = shrink(placement.before), shrink(placement.after)
    weights = (before | after).float()
    context = EditContext(
        None, None, torch.zeros(1), None, weights > 0, None, None, True, None, None, None, weights, (before, after)
    )
    return dragon._build_match(context)


@pytest.mark.parametrize("right", [0.25, 0.625])
def test_an_object_that_partly_leaves_the_picture_keeps_its_visible_part(right):
    mask = np.zeros((64, 64), bool)
    mask[16:36, 20:40] = True
    match = _build_dragon_match(mask, right=right)
    assert torch.allclose(match.targets - match.sources, torch.tensor([right, 0.0]), atol=1e-6)


def test_an_object_smaller_than_a_latent_place_is_refused():
    mask = np.zeros((64, 64), bool)
    mask[30, 30] = True
    for settings in ({"right": 0.2}, {"scale": 5.0}):
        with pytest.raises(SettingsError, match="too small for DragonDiffusion"):
            _build_dragon_match(mask, **settings)
