"""Where parts stay: the fastest placement that fits, planned on sparse files of real sizes and run on the stand-in."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.errors import ModelError, SettingsError
from pipelines.core.types import Choice
from pipelines.families import family_of
from pipelines.models.activations import Work, estimate_activations
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.device_choice import Acceleration, choose_device, require_attention, require_device
from pipelines.models.load_request import LoadRequest
from pipelines.models.loader import Loader
from pipelines.models.placement import EIGHT_BITS, place_parts
from pipelines.models.placing import Placing
from pipelines.quantizers import QUANTIZERS
from pipelines.quantizers.base import quantize_network
from pipelines.quantizers.layerwise import Layerwise
from pipelines.quantizers.stored import stored_bytes
from pipelines.requests.encoding import decode
from pipelines.weights import kinds
from pipelines.weights.files import read_full_header
from pipelines.weights.offload import streamed
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.checkpoint_files import xl_checkpoint_of
from tests.pipelines.lora_files import TARGETS, diffusers_lora
from tests.pipelines.test_on_accelerator import final, request_for
from tests.pipelines.tiny_models import tiny_flux, tiny_sd, tiny_sd3, tiny_sdxl

GIB = 2**30
HEADROOM = 0.1
# Bytes in half precision of the published models, and of their largest layer.
SIZES = {
    "sdxl": (tiny_sdxl, {"unet": 5.14e9, "text_encoder": 0.25e9, "text_encoder_2": 1.39e9, "vae": 0.17e9}, 4),
    "sd3": (
        tiny_sd3,
        {
            "transformer": 4.94e9,
            "text_encoder": 0.25e9,
            "text_encoder_2": 1.39e9,
            "text_encoder_3": 9.5e9,
            "vae": 0.17e9,
        },
        6,
    ),
    "flux": (tiny_flux, {"transformer": 23.8e9, "text_encoder": 0.25e9, "text_encoder_2": 9.5e9, "vae": 0.17e9}, 8),
}
LAYER = 0.27e9


def grow(folder: Path, size: float) -> None:
    """Replace a part's weights by a sparse file of the size of the real ones, in layers of at most `LAYER`."""
    for path in folder.glob("*.safetensors"):
        count = max(1, round(size / LAYER))
        numbers = int(size / count / 2)
        header = {
            f"layer.{index}": {
                "dtype": "F16",
                "shape": [numbers, 1],
                "data_offsets": [2 * numbers * index, 2 * numbers * (index + 1)],
            }
            for index in range(count)
        }
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + 2 * numbers * count)


def grow_file(path: Path, sizes: dict[str, float], prefixes: dict[str, str]) -> None:
    """Make a tiny checkpoint file a sparse one of the size of a real one, with further layers in each part."""
    header = {name: {"dtype": "F16", "shape": list(one.shape)} for name, one in read_full_header(path).tensors.items()}
    for part, size in sizes.items():
        count = max(1, round(size / LAYER))
        for index in range(count):
            header[f"{prefixes[part]}layer.{index}.weight"] = {"dtype": "F16", "shape": [int(size / count / 2), 1]}
    place = 0
    for one in header.values():
        stop = place + 2 * math.prod(one["shape"])
        one["data_offsets"], place = [place, stop], stop
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)


def loader_for(folder: Path, budget: int, host: int = 2**42, **settings) -> Loader:
    cache = ModelCache(budget, int(budget * HEADROOM))
    return Loader(cache, Catalog(folder), dtype="float16", host=ModelCache(host), **settings)


@pytest.mark.parametrize("name", [*SIZES, "sdxl.safetensors"])
def test_the_smallest_budgets_take_the_published_models(name, tmp_path, monkeypatch):
    make, sizes, gibibytes = SIZES[name.partition(".")[0]]
    if name in SIZES:
        make(tmp_path / name)
        for part, size in sizes.items():
            grow(tmp_path / name / part, size)
    else:
        monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 40, ("sdxl", "sdxl"))
        save_file({key: one.half() for key, one in xl_checkpoint_of(make()).items()}, tmp_path / name)
        starts = {part: starts[0] for part, starts in kinds.ENCODERS["sdxl"].items()}
        grow_file(tmp_path / name, sizes, {**starts, "unet": "model.diffusion_model.", "vae": "first_stage_model."})
    loader = loader_for(tmp_path, gibibytes * GIB, device="cuda:0")
    (entry,) = [one for one in loader.catalog.values() if one.path == tmp_path / name]
    plan = loader._plans.plan(entry, lambda: False, None)
    placement = place_parts(plan, loader.cache.limit, 2**40)
    assert placement.fits and placement.moved and placement.sentence
    held = sum(plan.estimates[key] for key in placement.resident.values()) + placement.room
    assert held <= 0.9 * gibibytes * GIB
    sentences = [place_parts(plan, limit * GIB, 2**40).sentence for limit in range(64, 1, -1)]
    assert sentences[0] == "The model fits whole." and len(set(sentences)) >= 3
    needed = sum(plan.estimates[plan.keys[part]] for part in placement.moved)
    packed = place_parts(plan, loader.cache.limit, int(0.8 * needed))
    assert packed.fits and "8 bits" in packed.sentence
    # A picture of 1024 x 1024 needs room beside the weights, which moves parts out of the way and refuses nothing.
    work = Work(2, 1024, 1024)
    assert loader._placing.place(plan, work)[0].fits
    roomy = Placing(ModelCache(int(1.05 * sum(plan.estimates.values()))), ModelCache(2**42), "cuda:0")
    small, large = (roomy.describe(plan, work)[0] for work in (Work(2, 64, 64), Work(16, 1024, 1024)))
    assert "whole" in small and "whole" not in large
    told, fits = Placing(ModelCache(GIB), ModelCache(GIB), "cuda:0").describe(plan, None)
    assert not fits and "models may take 1.1 GB of the device and, waiting, 1.1 GB of the computer. Choose a" in told
    if name in SIZES:
        check_cards(name, plan)
    if name == "flux":
        # A card of 24 GB in a computer of 32: the network does not fit as it is, and half of the memory not all parts.
        stays = place_parts(plan, 18 * GIB, 16 * GIB)
        assert stays.fits and stays.resident["transformer"].quantization == EIGHT_BITS and "8 bits" in stays.sentence


def spell(placement):
    """A placement as docs/devices.md spells it."""
    if not placement.fits:
        return "refused"
    words = {"fits whole": "whole", "calls only": "encoders for their calls", "take turns": "turns"}
    found = next((short for long, short in words.items() if long in placement.sentence), "")
    layers = placement.sentence.partition("one layer at a time of the ")[2].partition(":")[0]
    return ("fp8, " if "8 bits" in placement.sentence else "") + (f"layers: {layers}" if layers else found)


def check_cards(name, plan):
    text = Path(__file__).parents[2].joinpath("docs", "devices.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.split("| card |")[1].partition("\n\n")[0].splitlines()[2:]]
    assert len(rows) == 6
    for card, *cells in rows:
        for column, computer in {"sdxl": [(0, 32)], "sd3": [(1, 32)], "flux": [(2, 32), (3, 64)]}[name]:
            budget = int(0.85 * 0.93 * int(card.split()[0]) * GIB)
            placing = Placing(ModelCache(budget, budget // 10), ModelCache(computer * GIB // 2), "cuda:0")
            found = spell(placing.place(plan, Work(2, 1024, 1024))[0])
            assert found == cells[column], (name, card, computer)


REQUEST = request_for("sdxl").replace(sampler=Choice("ddim"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny SDXL as a folder and as a file, its latents on the CPU, its plans, and what a run adds to the weights."""
    folder, device = tmp_path_factory.mktemp("placed"), Accelerator("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds.CONTEXT_WIDTHS, 40, ("sdxl", "sdxl"))
        pipe = tiny_sdxl(folder / "folder")
        save_file(xl_checkpoint_of(pipe), folder / "file.safetensors")
        tiny_sdxl(folder / "sdxl-base")
        on_cpu = loader_for(folder, 2**33, device="cpu")
        expected = {}
        for name in ("folder", "file"):
            with on_cpu.model(name) as family:
                expected[name] = final(family, REQUEST)
        with device.on():
            loader = loader_for(folder, 2**33, device="cuda:0")
            with device.measuring() as meter, loader.model("folder") as family:
                weights = meter.bytes
                decode(family, final(family, REQUEST))
            plan = loader._plans.find("folder")
            del loader, family
            yield folder, device, expected, plan, meter.peak - weights


PLACED = {
    "whole": ("fits whole", ("unet", "text_encoder", "text_encoder_2", "vae")),
    "encoders": ("calls only", ("unet", "text_encoder_2 or vae")),
    "stages": ("turns", ("unet",)),
    "layers": ("one layer at a time of the unet:", ("vae",)),
    "all layers": ("one layer at a time of the unet and vae", ("text_encoder_2",)),
}


@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_model_runs_within_its_budget_and_makes_the_same_picture(name, kind, whole):
    folder, device, expected, plan, activations = whole
    sizes = {part: plan.estimates[key] for part, key in plan.keys.items()}
    sizes["text_encoder_2 or vae"] = max(sizes["text_encoder_2"], sizes["vae"])
    light = sum(size for part, size in sizes.items() if part.startswith("tokenizer"))
    words, held = PLACED[kind]
    loader = loader_for(folder, int(1.02 * (light + sum(map(sizes.get, held))) / (1 - HEADROOM)), device="cuda:0")
    with device.measuring() as meter:
        before = meter.bytes
        with loader.model(name) as family:
            seen = len(device.log)
            found = final(family, REQUEST)
            downloads = sum(one.bytes for one in device.log[seen:] if one.kind == "download")
            decode(family, found)
        assert words in loader.describe_placement(name)
    assert loader.cache.peak_bytes <= loader.cache.limit
    assert meter.peak - before <= loader.cache.limit - light + activations
    assert (found.cpu() - expected[name]).norm() <= 1e-3 * expected[name].norm()
    assert "layers" not in kind or downloads < sizes["unet"], "what is streamed is never copied back"


@pytest.mark.parametrize("stays", [False, True])
def test_a_network_that_no_memory_holds_is_stored_in_eight_bits_and_says_so(stays, whole):
    folder, device, _, plan, _ = whole
    sizes = {part: plan.estimates[key] for part, key in plan.keys.items() if not plan.parts[part].light}
    unet, most = sizes["unet"], sum(sizes.values())
    budgets = (0.8 * most, most - unet / 3)
    if stays:  # the device holds it in eight bits, and the computer the other parts alone
        light = sum(plan.estimates[key] for part, key in plan.keys.items() if plan.parts[part].light)
        held = light + 0.75 * unet + max(sizes["text_encoder_2"], sizes["vae"])
        budgets = (held / (1 - HEADROOM), 1.02 * (most - unet))
    loader = loader_for(folder, *map(int, budgets), device="cuda:0")
    with loader.model("folder") as family:
        found = final(family, REQUEST)
        assert "8 bits (fp8)" in loader.describe_placement("folder")
        assert loader.host.peak_bytes <= loader.host.limit and loader.cache.peak_bytes <= loader.cache.limit
        assert ("unet" in loader._placing.find(loader._plans.find("folder")).resident) is stays
        plain = family_of({**tiny_sdxl().components}).network.half().to(device.device)
        packed = quantize_network(plain, Layerwise()).state_dict()
        assert all(
            torch.equal(one.cpu().float(), packed[key].cpu().float())
            for key, one in family.network.state_dict().items()
        )
    assert found.isfinite().all()


def test_what_an_evaluation_takes_is_measured_and_the_next_plan_counts_with_it(whole, monkeypatch):
    folder, device, *_ = whole
    loader = loader_for(folder, 2**33, device="cuda:0")
    with device.measuring() as meter:
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: meter.bytes)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: meter.peak)
        with loader.model("folder") as family:
            weights, hooks = meter.bytes, len(family.network._forward_hooks)
            final(family, REQUEST)
        taken = meter.peak - weights
        with loader.model("folder") as family:
            assert len(family.network._forward_hooks) == hooks
    (per_place,) = loader._placing._measured.values()
    work = Work(2, REQUEST.width, REQUEST.height)
    assert 0.5 * taken <= estimate_activations("sdxl", "float16", work, per_place) * 16 <= 1.1 * taken * 16


@pytest.mark.parametrize("key", ["int8", "nf4", "fp8"])
def test_quantizing_never_holds_the_full_network_on_the_device(key, whole):
    folder, device, *_ = whole
    network = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(48)))
    full, layer = stored_bytes(network), stored_bytes(network[0])
    largest = max(2 * one.numel() for one in tiny_sdxl().unet.parameters())
    with device.measuring() as meter:
        before = meter.bytes
        made = quantize_network(network, QUANTIZERS[key].build({}), in_place=True, device="cuda:0")
        assert meter.peak - before < full / 2 and meter.peak - before <= stored_bytes(made) + 6 * layer
    assert all(one.device.type == "cuda" for one in made.parameters())
    loader = loader_for(folder, 2**33, device="cuda:0")
    with device.measuring() as meter:
        before = meter.bytes
        with loader.model("folder", request=LoadRequest(quantization=Choice(key))) as family:
            held = sum(stored_bytes(one) for one in family.components.values() if isinstance(one, torch.nn.Module))
            assert meter.peak - before <= held + 6 * largest and family.network.device.type == "cuda"


def test_a_streamed_network_computes_the_same_and_a_lora_reaches_its_weights():
    plain, other = family_of(tiny_sd().components), family_of(tiny_sd().components)
    streamed(other.network, "cpu")
    tensors, _ = diffusers_lora(plain, TARGETS["sd"])
    request = request_for("sd")
    before = final(other, request)
    assert torch.equal(before, final(plain, request))
    with plain.loras([(tensors, 0.5)]), other.loras([(tensors, 0.5)]):
        changed = final(other, request)
        assert torch.equal(changed, final(plain, request)) and not torch.equal(changed, before)
    assert torch.equal(final(other, request), before)


def test_a_streamed_layer_that_fails_has_its_own_weights_again():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight
    streamed(layer, "cpu")
    with pytest.raises(RuntimeError):
        layer(torch.ones(3))
    assert layer.weight is before


def test_what_fits_nowhere_is_refused_with_its_size(tmp_path):
    tiny_sdxl(tmp_path / "sdxl")
    loader = loader_for(tmp_path, 20_000, device="cpu")
    (name,) = [one.key for one in loader.catalog.values() if one.path == tmp_path / "sdxl"]
    with pytest.raises(ModelError, match="memory"), loader.model(name):
        pass
    assert "Choose a smaller model" in Loader(loader.cache, loader.catalog, "mps", "float16").describe_placement(name)


def test_a_device_is_named_as_pytorch_names_it_and_must_be_there():
    assert require_device("cpu") == "cpu" and choose_device() in ("cpu", "cuda", "mps", "xpu")
    for name in ("gpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(SettingsError, match="no device"):
            require_device(name)
    with pytest.raises(SettingsError, match="not here"):
        require_device("cuda:99")


def test_an_attention_back_end_is_refused_by_name_and_where_its_package_is_not_here():
    assert require_attention("") == "" and require_attention("native") == "native"
    with pytest.raises(SettingsError, match=r"'natvie' is no back end of diffusers\. Give one of: .*native"):
        require_attention("natvie")
    if importlib.util.find_spec("flash_attn") is None:
        with pytest.raises(SettingsError, match="--attention flash cannot be used here"):
            require_attention("flash")


def test_channels_last_and_attention_are_applied_and_an_unknown_one_is_refused():
    network = tiny_sdxl().unet
    Acceleration(attention="native", channels_last=True).apply(network)
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(SettingsError, match="--attention nothing"):
        Acceleration(attention="nothing").apply(network)
