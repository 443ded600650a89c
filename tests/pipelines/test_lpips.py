"""LPIPS against the formula written again in NumPy, and against the authors' package where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file

from pipelines.core.errors import ModelFileError, ModelMissingError, SettingsError
from pipelines.metrics.lpips import FILE, Lpips, load_lpips
from pipelines.models.catalog_folder import scan

CHANNELS = (4, 6, 5, 3, 3)
NAMES = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")


@pytest.fixture
def metric():
    torch.manual_seed(0)
    metric = Lpips(CHANNELS)
    for weight in metric.weights:
        weight.uniform_(0, 1)
    return metric


def pictures(side=64):
    draw = np.random.default_rng(0)
    first = draw.integers(0, 256, (side, side, 3), np.uint8)
    return first, np.clip(first.astype(int) + draw.integers(-40, 40, first.shape), 0, 255).astype(np.uint8)


def convolved(x, weight, bias, stride, padding):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]


def by_hand(metric, picture, reference):
    """Equation 1, in float64, layer by layer as AlexNet is written down."""

    def features(x):
        x = x.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
        x = (x - np.reshape([-0.030, -0.088, -0.188], (3, 1, 1))) / np.reshape([0.458, 0.448, 0.450], (3, 1, 1))
        found = []
        for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))):
            if i in (1, 2):
                x = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
            layer = metric.convolutions[i]
            x = np.maximum(convolved(x, layer.weight.double().numpy(), layer.bias.double().numpy(), stride, padding), 0)
            found.append(x)
        return found

    total = 0.0
    for one, other, weight in zip(features(picture), features(reference), metric.weights, strict=True):
        one, other = (x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in (one, other))
        total += ((one - other) ** 2 * weight.double().numpy()[:, None, None]).sum(0).mean()
    return total


def test_the_distance_is_equation_1(metric):
    first, second = pictures()
    assert metric.between(first, second) == pytest.approx(by_hand(metric, first, second), rel=1e-5)
    assert metric.between(first, first) == 0
    assert metric.between(first, second) == pytest.approx(metric.between(second, first), rel=1e-6)


def test_pictures_that_cannot_be_compared_are_refused(metric):
    first, second = pictures()
    with pytest.raises(SettingsError, match="one size"):
        metric.between(first, second[:32])
    with pytest.raises(SettingsError, match="32 pixels"):
        metric.between(first[:16], second[:16])


def stored(metric, path):
    path.parent.mkdir(parents=True)
    state = {f"lin{i}.model.1.weight": weight.reshape(1, -1, 1, 1).clone() for i, weight in enumerate(metric.weights)}
    for name, layer in zip(NAMES, metric.convolutions, strict=True):
        state |= {f"net.{name}.weight": layer.weight, f"net.{name}.bias": layer.bias}
    save_file(state, path)


def test_the_weights_come_from_the_models_folder_and_from_nowhere_else(metric, tmp_path):
    with pytest.raises(ModelMissingError, match="not here"):
        load_lpips(tmp_path)
    stored(metric, tmp_path / FILE)
    first, second = pictures()
    assert load_lpips(tmp_path).between(first, second) == metric.between(first, second)
    assert load_lpips(tmp_path) is load_lpips(tmp_path)
    assert scan(tmp_path) == []  # they are no model


@pytest.mark.parametrize("content", [b"", b"\x80\x02pickle", None])
def test_a_broken_file_is_told(tmp_path, content):
    path = tmp_path / FILE
    path.parent.mkdir()
    if content is None:
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="lpips-alex"):
        load_lpips(tmp_path)


def test_the_authors_package_agrees(tmp_path):
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(1)
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    (tmp_path / "metrics").mkdir()
    save_file({name: value.clone().contiguous() for name, value in theirs.state_dict().items()}, tmp_path / FILE)
    first, second = pictures()
    with torch.no_grad():
        pair = [torch.from_numpy(one).permute(2, 0, 1)[None].float() / 127.5 - 1 for one in (first, second)]
        expected = float(theirs(*pair))
    assert load_lpips(tmp_path).between(first, second) == pytest.approx(expected, rel=1e-5)
