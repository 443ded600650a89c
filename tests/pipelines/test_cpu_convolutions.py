"""Large convolutions over small grids are computed as products of matrices, and nothing else changes."""

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from torch import nn

from pipelines.models import cpu_convolutions, cpu_winograd
from pipelines.models.cpu_convolutions import SmallGridConv2d, use_channels_last, use_products_on_small_grids
from pipelines.models.cpu_upsampling import JoinedUpsample2D, join_upsampling
from pipelines.models.cpu_winograd import WinogradConv2d, use_fewer_products
from pipelines.models.device_choice import Acceleration


@pytest.fixture
def small(monkeypatch):
    """Count 100 weights as many, in float64 too, so that rounding hides nothing."""
    monkeypatch.setattr(cpu_convolutions, "LEAST_WEIGHTS", 100)
    monkeypatch.setattr(cpu_convolutions, "MOST_POSITIONS", {torch.float64: 60})


def convolution(**options):
    torch.manual_seed(0)
    return nn.Conv2d(6, 10, **{"kernel_size": 3, **options}).double()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"padding": 0},
        {"padding": 1, "bias": False},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 1)},
    ],
)
def test_the_product_is_the_convolution(options, small, monkeypatch):
    plain = convolution(**options)
    fast = convolution(**options)
    assert use_products_on_small_grids(fast) == 1 and isinstance(fast, SmallGridConv2d)
    inputs = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    expected = plain(inputs)
    gradient = torch.autograd.grad(expected.square().sum(), inputs)[0]
    with monkeypatch.context() as context:
        context.setattr(nn.Conv2d, "forward", None)  # it takes no other way
        found = fast(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), inputs)[0], gradient, rtol=0, atol=1e-12)


def test_large_grids_and_other_kinds_are_left_to_pytorch(small):
    network = nn.Sequential(
        convolution(padding=1, groups=2),
        nn.Conv2d(10, 10, 3, padding=2, dilation=2),
        nn.Conv2d(10, 10, 3, padding="same"),
        nn.Conv2d(10, 10, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(10, 1, 1),
    ).double()
    assert use_products_on_small_grids(network) == 0
    plain, fast = convolution(padding=1), convolution(padding=1)
    use_products_on_small_grids(fast)
    inputs = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    assert torch.equal(fast(inputs), plain(inputs))


def test_names_weights_and_the_kind_stay(small):
    network = nn.Sequential(convolution(padding=1))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Acceleration().apply(network)
    assert type(network[0]) is SmallGridConv2d and isinstance(network[0], nn.Conv2d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    Acceleration(channels_last=True).apply(network)
    inputs = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    plain = convolution(padding=1)
    torch.testing.assert_close(network(inputs), plain(inputs), rtol=0, atol=1e-13)


def test_the_size_of_a_stable_diffusion_layer_is_large_enough():
    assert 1280 * 1280 * 9 >= cpu_convolutions.LEAST_WEIGHTS > 640 * 1280 * 9


def small_vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
    ).requires_grad_(False)


def test_an_autoencoder_in_channels_last_decodes_the_same():
    vae = small_vae().double()
    latents = torch.randn(2, vae.config.latent_channels, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        assert use_channels_last(vae)
        assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(vae.decode(latents).sample, expected, rtol=0, atol=1e-12)


def test_doubling_and_convolution_are_one_transposed_convolution(monkeypatch):
    vae = small_vae().double()
    latents = torch.randn(2, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    expected = vae.decode(latents).sample
    gradient = torch.autograd.grad(expected.square().sum(), latents)[0]
    names = list(vae.state_dict())
    assert join_upsampling(vae) == 1 and list(vae.state_dict()) == names
    monkeypatch.setattr(cpu_winograd, "LEAST_CHANNELS", 8)
    assert use_fewer_products(vae)  # whose own way the doubling's convolution does not take
    with monkeypatch.context() as context:
        context.setattr(Upsample2D, "forward", None)  # it takes no other way
        found = vae.decode(latents).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), latents)[0], gradient, rtol=1e-10, atol=1e-10)


def test_a_convolution_that_has_a_hook_or_is_another_by_now_is_called():
    vae = small_vae().double()
    latents = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    expected = vae.decode(latents).sample
    join_upsampling(vae)
    layer = next(one for one in vae.modules() if isinstance(one, JoinedUpsample2D))
    seen = []
    handle = layer.conv.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(vae.decode(latents).sample, expected) and seen
    handle.remove()
    layer.conv = nn.Sequential(layer.conv)
    assert torch.equal(vae.decode(latents).sample, expected)


def test_doubling_of_other_kinds_is_left_alone():
    other = nn.Sequential(
        Upsample2D(4, use_conv=False),
        Upsample2D(4, use_conv_transpose=True),
        Upsample2D(4, use_conv=True, kernel_size=5, padding=2),
        Upsample2D(4, use_conv=True, norm_type="rms_norm"),
    )
    assert join_upsampling(other) == 0


def test_a_video_autoencoder_is_left_alone():
    assert not use_channels_last(nn.Conv3d(1, 1, 1))


@pytest.fixture
def few(monkeypatch):
    """Let small convolutions count as wide, in parts of a few tiles."""
    for name in ("LEAST_CHANNELS", "LEAST_TILES"):
        monkeypatch.setattr(cpu_winograd, name, 1)
    monkeypatch.setattr(cpu_winograd, "TILES_AT_ONCE", 5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 6), (7, 8), (9, 5), (2, 2)])
def test_winograds_products_are_the_convolution(size, bias, few, monkeypatch):
    plain, fast = convolution(padding=1, bias=bias), convolution(padding=1, bias=bias)
    names = list(fast.state_dict())
    assert use_fewer_products(fast) == 1 and list(fast.state_dict()) == names
    inputs = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad(), monkeypatch.context() as context:
        expected = plain(inputs)
        context.setattr(nn.Conv2d, "forward", None)  # it takes no other way
        found = fast(inputs)
        # In channels last, as an autoencoder's are.
        last = fast.to(memory_format=torch.channels_last)(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-13)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_winograd_is_left_out_where_it_has_no_derivative_or_is_not_exact(few, monkeypatch):
    monkeypatch.setattr(cpu_winograd, "_convolve", None)  # which would fail
    fast, inputs = convolution(padding=1), torch.randn(1, 6, 6, 6, dtype=torch.float64)
    use_fewer_products(fast)
    fast(inputs)  # whose weights have gradients
    fast.requires_grad_(False)
    fast(inputs.requires_grad_()).sum().backward()
    with torch.no_grad():
        torch.func.jvp(fast, (inputs,), (inputs,))
        fast.bfloat16()(inputs.bfloat16())
        monkeypatch.setattr(cpu_winograd, "LEAST_TILES", 10)
        fast.double()(inputs)


def test_winograd_takes_an_autoencoders_wide_plain_layers_alone(monkeypatch):
    monkeypatch.setattr(cpu_winograd, "LEAST_CHANNELS", 8)
    vae = small_vae()
    taken = use_fewer_products(vae)
    assert taken == sum(isinstance(one, WinogradConv2d) for one in vae.modules()) > 0
    others = nn.Sequential(
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3, padding=1)
    )
    assert use_fewer_products(others) == 0
