"""The tables of what steers a run besides its prompt: ControlNets, T2I-Adapters, pictures as prompts, further
models, and sliders."""

from __future__ import annotations

from pipelines.controls.controlnet import ControlNet, ControlNetSettings
from pipelines.controls.ensemble import Ensemble, EnsembleSettings
from pipelines.controls.image_prompt import ImagePrompt, IpAdapterSettings
from pipelines.controls.sliders import Sliders, SlidersSettings
from pipelines.controls.t2i_adapter import T2iAdapter, T2iAdapterSettings
from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.core.types import Traits

__all__ = ["CONTROLS", "ENSEMBLES", "IMAGE_PROMPTS", "SLIDERS", "T2I_ADAPTERS"]


def _needs_controlled_family(traits: Traits) -> str | None:
    if traits.family in {"sd", "sdxl", "sd3", "flux"} and traits.backbone != "pipeline":
        return None
    return "ControlNets are read for Stable Diffusion 1 to 3.5, SDXL and FLUX.1"


def _needs_adapted_family(traits: Traits) -> str | None:
    if traits.family in {"sd", "sdxl"} and traits.backbone == "unet":
        return None
    return "T2I-Adapters are read for Stable Diffusion 1 and 2 and SDXL"


def _needs_unet(traits: Traits) -> str | None:
    if traits.family in {"sd", "sdxl"} and traits.backbone == "unet":
        return None
    return "IP-Adapters are read for Stable Diffusion 1 and 2 and SDXL"


CONTROLS: Table[ControlNet | None] = Table(
    "control",
    [
        Method("none", "No control", lambda settings: None, help="The prompt alone decides where things are."),
        Method(
            "controlnet",
            "ControlNet",
            ControlNet,
            ControlNetSettings,
            fit=_needs_controlled_family,
            paper="Zhang et al., arXiv:2302.05543",
            help="The lines, depth or pose of a picture decide where things are.",
        ),
    ],
)

T2I_ADAPTERS: Table[T2iAdapter | None] = Table(
    "T2I adapter",
    [
        Method("none", "No adapter", lambda settings: None, help="The prompt alone decides where things are."),
        Method(
            "t2i_adapter",
            "T2I-Adapter",
            T2iAdapter,
            T2iAdapterSettings,
            fit=_needs_adapted_family,
            paper="Mou et al., arXiv:2302.08453",
            help="A ControlNet's small sister: it reads the picture once, and no step costs more.",
        ),
    ],
)

IMAGE_PROMPTS: Table[ImagePrompt | None] = Table(
    "image prompt",
    [
        Method("none", "No picture", lambda settings: None, help="The prompt is its words."),
        Method(
            "ip_adapter",
            "IP-Adapter",
            ImagePrompt,
            IpAdapterSettings,
            fit=_needs_unet,
            paper="Ye et al., arXiv:2308.06721",
            help="A picture is a part of the prompt: its subject, its style, its colors.",
        ),
    ],
)

ENSEMBLES: Table[Ensemble | None] = Table(
    "ensemble",
    [
        Method("none", "One model", lambda settings: None, help="The chosen model alone."),
        Method(
            "composition",
            "Several models",
            Ensemble,
            EnsembleSettings,
            fit=own_loop_only,
            paper="Liu et al., arXiv:2206.01714",
            help="Models of one latent space draw together: each step takes the mean of what they predict.",
        ),
    ],
)

SLIDERS: Table[Sliders | None] = Table(
    "sliders",
    [
        Method("none", "No sliders", lambda settings: None, help="The picture as it is."),
        Method(
            "directions",
            "Directions of this model",
            Sliders,
            SlidersSettings,
            fit=own_loop_only,
            paper="Haas et al., arXiv:2303.11073; Wang et al., arXiv:2502.02225",
            help="Moves the picture along the directions in which this model's pictures differ most.",
        ),
    ],
)
