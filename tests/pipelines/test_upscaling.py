"""Upscalers: the compact network's layout, tiles that make the whole picture, files that are listed or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import ModelFileError
from pipelines.upscaling.compact import CompactUpscaler, compact_from
from pipelines.upscaling.enlarge import TILE, enlarge, resample
from pipelines.upscaling.upscalers import load_upscaler


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_untrained_change_of_zero_is_nearest_neighbor(scale):
    network = CompactUpscaler(8, 2, scale)
    torch.nn.init.zeros_(network.body[-1].weight)
    torch.nn.init.zeros_(network.body[-1].bias)
    images = torch.rand(1, 3, 5, 7)
    expected = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize("depth", [3, 8])
def test_a_file_comes_back_with_its_shape(depth, tmp_path):
    network = CompactUpscaler(8, depth, 4)
    save_file(network.state_dict(), tmp_path / "file.safetensors")
    again = load_upscaler(tmp_path / "file.safetensors")
    images = torch.rand(1, 3, 6, 6)
    assert torch.equal(again(images), network(images)) and again.scale == 4


def test_a_pixel_depends_on_its_reach_and_no_further():
    network = CompactUpscaler(8, 3, 2)
    images = torch.rand(1, 3, 24, 24)
    changed = images.clone()
    changed[0, :, 12, 2] += 1
    differs = (network(images) != network(changed)).any(dim=(0, 1))[24]
    columns = differs.nonzero().flatten()
    assert columns.min() >= 0 and columns.max() == 2 * (2 + network.reach) + 1


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"body.0.weight": torch.zeros(8, 3, 3, 3)},
        {"conv_first.weight": torch.zeros(8, 3, 3, 3), "conv_last.weight": torch.zeros(3, 8, 3, 3)},
        {"body.0.weight": torch.zeros(8, 3, 3, 3), "body.2.weight": torch.zeros(10, 8, 3, 3)},
    ],
)
def test_other_networks_are_refused(tensors):
    with pytest.raises(ModelFileError):
        compact_from(tensors)


def network(scale: int = 2, depth: int = 2) -> CompactUpscaler:
    torch.manual_seed(0)
    return CompactUpscaler(8, depth, scale).eval()


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(pixels: np.ndarray, upscaler: CompactUpscaler) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return (upscaler(images)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(40, 30), (TILE, TILE), (TILE + 1, 2 * TILE + 5), (400, 30)])
def test_tiles_make_the_whole_picture(size):
    pixels, upscaler = picture(*size), network()
    tiled = enlarge(pixels, upscaler, (size[0] * 2, size[1] * 2))
    # float32 sums in another order may round a value the other way
    assert np.abs(tiled.astype(int) - whole(pixels, upscaler)).max() <= 1


def test_it_is_applied_as_often_as_the_size_asks_for():
    pixels, upscaler = picture(20, 10), network()
    twice = whole(whole(pixels, upscaler), upscaler)
    assert np.array_equal(enlarge(pixels, upscaler, (80, 40)), twice)
    assert np.array_equal(enlarge(pixels, upscaler, (60, 30)), resample(twice, (60, 30)))
    assert np.array_equal(enlarge(pixels, upscaler, (20, 10)), pixels)
    assert np.array_equal(enlarge(pixels, None, (33, 17)), resample(pixels, (33, 17)))


def test_it_reports_and_stops_between_tiles():
    shares: list[float] = []
    enlarge(picture(2 * TILE, 10), network(), (8 * TILE, 40), report=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 2 + 4
    with pytest.raises(Cancelled):
        enlarge(
            picture(2 * TILE, 10), network(), (4 * TILE, 20), report=shares.append, cancelled=lambda: len(shares) > 6
        )
    assert len(shares) == 7


def test_it_stops_within_the_evaluation_of_a_tile():
    """A published network takes a CPU half a minute for a tile."""

    class Slow:
        scale, reach, operations = 2, 0, 0

        def __call__(self, images):
            for _ in range(100):
                images = images + 0
                self.operations += 1
            return images.repeat_interleave(2, 2).repeat_interleave(2, 3)

    network = Slow()
    with pytest.raises(Cancelled):
        enlarge(np.zeros((8, 8, 3), np.uint8), network, (16, 16), cancelled=lambda: network.operations >= 5)
    assert network.operations == 5


def test_a_long_operation_of_a_tile_is_computed_in_parts():
    polled = []

    def is_cancelled():
        polled.append(True)
        return False

    class Twice:
        scale, reach = 2, 1

        def __call__(self, images):
            # 25 x 10^9 operations: ten parts at the speed that is believed at first, fewer where it proves higher
            wide = torch.nn.functional.conv2d(images, torch.zeros(2000, 3, 15, 15), padding=7)
            return torch.nn.functional.interpolate(wide[:, :3], scale_factor=2)

    enlarge(np.zeros((96, 96, 3), np.uint8), Twice(), (192, 192), cancelled=is_cancelled)
    assert len(polled) > 3  # in one piece it would be asked once


def test_what_cannot_be_read_says_why(tmp_path):
    pickled, broken, other = (tmp_path / name for name in ("a.pth", "b.safetensors", "c.safetensors"))
    pickled.write_bytes(b"")
    broken.write_bytes(b"not a file of weights")
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(ModelFileError, match="pickle"):
        load_upscaler(pickled)
    with pytest.raises(ModelFileError, match=r"b\.safetensors"):
        load_upscaler(broken)
    with pytest.raises(ModelFileError, match=r"requirements-upscalers.txt|no upscaler"):
        load_upscaler(other)


def test_spandrel_reads_what_is_written_here(tmp_path):
    try:
        import spandrel
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"spandrel cannot be used here: {error}")
    upscaler = network(2)
    described = spandrel.ModelLoader("cpu").load_from_state_dict(dict(upscaler.state_dict()))
    images = torch.rand(1, 3, 8, 8)
    assert described.scale == 2 and torch.equal(described(images), upscaler(images).clamp(0, 1))
