"""The settings and records that travel between the page, the loop and the result folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from pipelines.core.errors import SettingsError, UnknownMethodError

if TYPE_CHECKING:
    import torch

    from pipelines.core.schedule import Level

__all__ = [
    "MAX_PROMPT",
    "METHODS",
    "Choice",
    "LoraChoice",
    "Request",
    "Step",
    "Traits",
    "Trajectory",
    "is_text",
    "is_whole",
]

MAX_PROMPT = 4000
"""Characters allowed in a prompt: ten times what any text encoder here reads."""

_TEXTS = ("model", "prompt", "negative_prompt", "prompt_weighting")

METHODS = (
    "sampler",
    "schedule",
    "guidance",
    "start",
    "made_like",
    "second_pass",
    "cache",
    "vae",
    "control",
    "t2i_adapter",
    "image_prompt",
    "ensemble",
    "sliders",
    "story",
    "search",
    "reward",
)
"""The fields of a request that hold a method."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice names a method of a table by key, with the settings that differ from its defaults.

    Attributes:
        key: a key of the table, e.g. "dpmpp_2m".
        settings: setting name to plain value (bool, int, float, str); checked when the method is built.
    """

    key: str
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, value: object) -> Choice:
        """Read a Choice, a bare key, or {"key": ..., <setting>: <value>, ...}.

        Raises:
            SettingsError: it is none of these.
        """
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("key"), str):
            return cls(value["key"], {str(name): plain for name, plain in value.items() if name != "key"})
        raise SettingsError(
            f"A method is given as {str(value)[:80]!r}. Give its key, or an object with 'key' and its settings."
        )

    def to_json(self) -> dict[str, Any]:
        """Write {"key": ..., <setting>: <value>, ...}, which `parse` reads back."""
        return {"key": self.key, **self.settings}

    def __hash__(self) -> int:
        return hash((self.key, frozenset(self.settings.items())))


@dataclasses.dataclass(frozen=True)
class LoraChoice:
    """A choice of a LoRA of the models folder by name, and how strongly it acts (1 as trained, 0 not at all)."""

    name: str
    weight: float = 1.0

    @classmethod
    def parse(cls, value: object) -> LoraChoice:
        """Read a LoraChoice, a name, or {"name": ..., "weight": ...}.

        Raises:
            SettingsError: it is none of these, or the weight is beyond -4 to 4.
        """
        if isinstance(value, LoraChoice):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            weight = value.get("weight", 1.0)
            if isinstance(weight, (int, float)) and not isinstance(weight, bool) and -4 <= weight <= 4:
                return cls(value["name"], float(weight))
        raise SettingsError(f"A LoRA is given as {str(value)[:80]!r}. Give its name and a weight from -4 to 4.")


@dataclasses.dataclass(frozen=True)
class Request:
    """A request holds everything that decides a text-to-image picture, and nothing else.

    Attributes:
        model: key of the catalog.
        prompt, negative_prompt: as typed, with weights, switches and AND; wildcards already drawn.
        sampler, schedule, guidance, start: methods by key with their settings.
        made_like: the program whose noise, times and formulas the run has, with its settings.
        second_pass: what is done to the finished picture at a larger size, with its settings.
        cache: what leaves parts of the network's evaluations out, with its settings.
        control, t2i_adapter, image_prompt: pictures that steer the run, with the ControlNet, the T2I-Adapters or the
            IP-Adapter that reads them.
        ensemble: further models whose predictions are averaged with the model's, with their weights.
        sliders: directions of the model's own along which the run is moved, with how far.
        story: scenes that are drawn together, a picture of the batch each, and what they share, with its settings.
        vae: what encodes and decodes pictures: the model's own, or one of the models folder by name.
        search: how a picture is searched for, with its settings; a single run by default.
        reward: what a search makes large, with its settings; not read without a search.
        num_inference_steps: steps of the sampler.
        width, height: pixels; 0 takes the model's own.
        seed: of the first picture; picture i of a batch has seed + i.
        variation_seed, variation_strength: a second noise, and how far (0 to 1) the first is turned
            towards it on the sphere.
        batch_size: pictures.
        loras: applied together.
        prompt_weighting: what (word:1.2) does, a key of `families.prompt_weighting.WEIGHTINGS`.
    """

    model: str = "emoji"
    prompt: str = ""
    negative_prompt: str = ""
    sampler: Choice = Choice("dpmpp_2m")
    schedule: Choice = Choice("uniform")
    guidance: Choice = Choice("cfg")
    start: Choice = Choice("noise")
    made_like: Choice = Choice("here")
    second_pass: Choice = Choice("none")
    cache: Choice = Choice("none")
    vae: Choice = Choice("own")
    control: Choice = Choice("none")
    t2i_adapter: Choice = Choice("none")
    image_prompt: Choice = Choice("none")
    ensemble: Choice = Choice("none")
    sliders: Choice = Choice("none")
    story: Choice = Choice("none")
    search: Choice = Choice("none")
    reward: Choice = Choice("adherence")
    num_inference_steps: int = 25
    width: int = 0
    height: int = 0
    seed: int = 0
    variation_seed: int = 0
    variation_strength: float = 0.0
    batch_size: int = 1
    loras: tuple[LoraChoice, ...] = ()
    prompt_weighting: str = "interpolate"

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Request:
        """Read untrusted plain values, as a JSON body, a saved picture or a command line gives them.

        Raises:
            SettingsError: an unknown name, or a value of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in fields]
        if unknown:
            raise UnknownMethodError("setting", unknown[0], fields)
        return cls(**{name: _parse_field(name, value) for name, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        """Write plain values that `parse` reads back to an equal request."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in METHODS:
            plain[name] = plain[name].to_json()
        plain["loras"] = [dataclasses.asdict(lora) for lora in self.loras]
        return plain

    def replace(self, **changes: Any) -> Request:
        """Copy the request with these fields changed."""
        return dataclasses.replace(self, **changes)


def _parse_field(name: str, value: object) -> Any:
    words = name.replace("_", " ")
    if name in METHODS:
        return Choice.parse(value)
    if name == "loras":
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"LoRAs are given as {str(value)[:80]!r}. Give a list.")
        return tuple(LoraChoice.parse(lora) for lora in value)
    if name in _TEXTS:
        if not is_text(value):
            raise SettingsError(f"The {words} is {str(value)[:80]!r}. It must be text.")
        return value
    if name == "variation_strength":
        if not _is_number(value):
            raise SettingsError(f"The {words} is {str(value)[:80]!r}. It must be a number.")
        return float(value)
    if not is_whole(value):
        raise SettingsError(f"The {words} is {str(value)[:80]!r}. It must be a whole number.")
    return int(value)


def is_whole(value: object) -> TypeGuard[int | float]:
    """Say whether an untrusted value is a whole number; JSON as Python reads it knows infinity and NaN, too."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def is_text(value: object) -> TypeGuard[str]:
    """Say whether an untrusted value is text that can be stored: JSON can hold half a character, which UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)


def _is_number(value: object) -> TypeGuard[int | float]:
    # JSON's integers may have more digits than a float can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Traits:
    """Traits are what a method may ask of a loaded model to say whether it fits.

    Attributes:
        family: "sd", "sdxl", "sd3", "flux" or "stock".
        prediction_type: what the network returns: "epsilon", "v_prediction", "sample" or "flow".
        backbone: "unet", "transformer" or "pipeline" (a stock pipeline: only its own call).
        guidance: "cfg" (a conditional and an unconditional pass), "embedded" (the scale is an input of
            the network) or "none".
        compiled: whether PyTorch compiles its network, whose layers then cannot be left out one by one.
        skips: skip connections of a UNet; 0 without one, and where it isn't known before the model is loaded.
        joint_blocks, single_blocks: blocks of a transformer that work on picture and text apart, and on both as one;
            0 likewise.
        text_layers: layers of the text encoder of which a clip skip may choose one; 0 likewise.
    """

    family: str
    prediction_type: str
    backbone: str
    guidance: str = "cfg"
    compiled: bool = False
    skips: int = 0
    joint_blocks: int = 0
    single_blocks: int = 0
    text_layers: int = 0

    @property
    def flow(self) -> bool:
        """Whether the noise schedule is alpha = 1 - t, sigma = t."""
        return self.prediction_type == "flow"


@dataclasses.dataclass(frozen=True)
class Step:
    """A step is one finished step of the denoising loop.

    Attributes:
        index: 0 to num_steps - 1.
        num_steps: steps in the whole run.
        level: noise level before the step.
        next_level: noise level of `latents`.
        latents: (B, C, h, w), float32, x = alpha * x0 + sigma * eps at `next_level`.
        denoised: (B, C, h, w), float32, the estimate of x0 that the step moved towards.
        evaluations: network evaluations per sample since the start, every guidance branch counted; one that a cache
            shortened counts as the share that was run.
        elapsed: gives `seconds`; the loop does not wait for them.
        note: one sentence of the sampler's on the run so far, for the person; mostly empty.
        skipped: share of this step's work in the network that a cache left out, 0 to 1.
    """

    index: int
    num_steps: int
    level: Level
    next_level: Level
    latents: torch.Tensor
    denoised: torch.Tensor
    evaluations: float
    elapsed: Callable[[], float] = dataclasses.field(repr=False, compare=False)
    note: str = ""
    skipped: float = 0.0

    @property
    def seconds(self) -> float:
        """Time since the start, the network's and the sampler's, not the consumers'; waits until the device has done
        the step."""
        return self.elapsed()


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A trajectory is a finished run, level by level.

    Attributes:
        initial: (B, C, h, w), float32, the latents the run started from.
        steps: in order.
    """

    initial: torch.Tensor
    steps: tuple[Step, ...]
