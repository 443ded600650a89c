"""Where what reads pictures stays: what each step calls is not moved there and back in each, on the stand-in."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from diffusers import ControlNetModel, T2IAdapter
from test_controlnet import PICTURE, PROMPT, SIZE
from test_image_prompt import adapter_state, image_encoder

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request
from pipelines.models.activations import Work
from pipelines.models.extras import Extras
from pipelines.models.load_request import LoadRequest
from pipelines.requests.text_to_image import build_run, resolve
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.test_placement import HEADROOM, loader_for
from tests.pipelines.tiny_models import TINY_ADAPTER, tiny_sd

REQUEST = Request(
    model="one", prompt=PROMPT, num_inference_steps=2, width=SIZE, height=SIZE, sampler=Choice("ddim"), seed=3
)
STEERED = {
    "controlnet": (
        Extras(controlnet="edges"),
        REQUEST.replace(control=Choice("controlnet", {"model": "edges", "picture": "p"})),
    ),
    "t2i_adapter": (
        Extras(t2i_adapters=("shapes",)),
        REQUEST.replace(t2i_adapter=Choice("t2i_adapter", {"model": "shapes", "picture": "p"})),
    ),
    "ip_adapter": (
        Extras(adapter="look"),
        REQUEST.replace(image_prompt=Choice("ip_adapter", {"model": "look", "picture": "p"})),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("steered")
    unet = tiny_sd(made / "one").unet
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8)).eval()
    for parameter in control.parameters():
        parameter.data += 0.05
    control.save_pretrained(made / "controlnet" / "Edges")
    T2IAdapter(**TINY_ADAPTER).eval().save_pretrained(made / "t2i_adapter" / "Shapes")
    (made / "ipadapter").mkdir()
    safetensors.torch.save_file(adapter_state(unet), made / "ipadapter" / "look.safetensors")
    image_encoder().save_pretrained(made / "clip_vision" / "image_encoder")
    return made


def run(loader, what, device=None):
    """The final latents, and of the last step the bytes up and down."""
    extras, request = STEERED[what]
    with loader.model("one", request=LoadRequest(extras)) as family:
        family.pictures = {"p": PICTURE}
        steps = denoise(build_run(resolve(request, family), family))
        next(steps)
        seen = len(device.log) if device else 0
        *_, step = steps
        crossed = device.log[seen:] if device else []
        return step.latents.float().cpu(), [
            sum(one.bytes for one in crossed if one.kind == kind) for kind in ("upload", "download")
        ]


@pytest.mark.parametrize(
    ("what", "share"), [("controlnet", 1.1), ("t2i_adapter", 1.02), ("ip_adapter", 1.02), ("ip_adapter", 0.5)]
)
def test_what_each_step_calls_is_not_moved_back_in_each_step(what, share, folder):
    device = Accelerator("cuda")
    on_cpu = loader_for(folder, 2**33, device="cpu")
    expected, _ = run(on_cpu, what)
    plan = on_cpu._extend(on_cpu._plans.find("one"), STEERED[what][0])
    sizes = {name: plan.estimates[key] for name, key in plan.keys.items()}
    stays = sum(size for name, size in sizes.items() if name.startswith("tokenizer")) + sizes.get("ip_adapter", 0)
    most = max(sizes["unet"], sizes.get("controlnet", 0))
    with device.on():
        loader = loader_for(folder, int((stays + share * most) / (1 - HEADROOM)), device="cuda:0")
        found, (up, down) = run(loader, what, device)
        placement = loader._placing.find(loader._placing._last["one"][0])
        assert placement.fits and "unet" in placement.moved
    assert (found - expected).norm() <= 1e-3 * expected.norm()
    assert down == 0 and up < 0.6 * (sizes["unet"] + sizes.get("controlnet", 0)) + sizes["unet"] * (share < 1)


def test_weights_that_come_for_an_evaluation_are_not_measured_as_what_it_takes(folder, monkeypatch):
    device = Accelerator("cuda")
    on_cpu = loader_for(folder, 2**33, device="cpu")
    plan = on_cpu._plans.plan(on_cpu.catalog["one"], lambda: False, None)
    sizes = {name: plan.estimates[key] for name, key in plan.keys.items()}
    budget = int(1.02 * (sizes["unet"] + sizes["tokenizer"]) / (1 - HEADROOM))
    with device.on(), device.measuring() as meter:
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: meter.bytes)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: meter.peak)
        loader = loader_for(folder, budget, device="cuda:0")
        with loader.model("one") as family:
            list(denoise(build_run(resolve(REQUEST.replace(num_inference_steps=1), family), family)))
            weights = sum(one.numel() * one.element_size() for one in family.network.parameters())
        placed = loader._placing._last["one"][1]
        assert "unet" in placed.moved and not placed.streamed
        taken = [value * Work(2, SIZE, SIZE).places for value in loader._placing._measured.values()]
        assert all(value < weights / 4 for value in taken), "a model of one step measures nothing, or what it takes"
