"""What a model family gives the studio: encode text, encode and decode images, one raw prediction, a preview."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.prediction import Conditioning, Network
from pipelines.core.schedule import NoiseSchedule
from pipelines.core.types import Traits
from pipelines.families.directions import Directions
from pipelines.families.prompt_tokens import TextRow
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING
from pipelines.families.sides import require_multiples
from pipelines.prompts.rules import HERE, PromptRules
from pipelines.schedules.learned import LearnedSchedules

if TYPE_CHECKING:
    from pipelines.families.pretrained import PretrainedModule

__all__ = ["Family"]


class Family(abc.ABC):
    """Represents a loaded model of one family, made from diffusers' components.

    A family borrows its components and returns them unchanged; several requests may share one, one at a time.

    Attributes:
        key: the family's name in the catalog.
        components: diffusers' names ("unet", "vae", "text_encoder", ...) to the loaded parts.
        noise_schedule: relation of network time to noise level.
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        traits: what methods ask in order to say whether they fit.
        default_size: (width, height) in pixels.
        size_multiple: a size in pixels must be divisible by this.
        max_rows: most rows of one network evaluation; 0 for no limit.
        rows_by_size: numbers in a row to the most rows that the device's memory held, where it ran out; a loader hands
            one on from job to job.
        rows_together: rows that see each other and are evaluated together, such as the frames of a clip.
        identity: of the weights: equal identities mean equal files, LoRAs that are applied included; None where the
            weights came from no file.
        pictures: that steer this job's runs, (H, W, 3), uint8, by the names that a request has for them.
        companions: further models, whose predictions a request averages with this one's, each by its key.
        ensemble: this model and its companions as one network; None without any.
        directions_folder: files of directions for sliders; None where there are none.
        directions: those of them that this job's runs are moved along, by name.
        notes: what the last decoding had to do otherwise, a sentence each, for the person.
        learned: the schedules that were fitted to models; the shipped ones, until a loader knows more.
        network: the denoising network.
        network_name: its name among the components.
        network_dtype: of its weights.
    """

    key: ClassVar[str]
    network_name: ClassVar[str]
    network: PretrainedModule
    network_dtype: torch.dtype
    noise_schedule: NoiseSchedule
    prediction_type: str
    traits: Traits
    default_size: tuple[int, int]
    size_multiple: int
    max_rows: int = 0
    rows_together: int = 1
    identity: tuple[tuple[str, Hashable], ...] | None = None
    learned: LearnedSchedules = LearnedSchedules()
    directions_folder: Path | None = None

    def __init__(self, components: Mapping[str, Any]):
        self.components = dict(components)
        self.rows_by_size: dict[int, int] = {}
        self.notes: list[str] = []
        self.pictures: Mapping[str, np.ndarray] = {}
        self.companions: Mapping[str, Family] = {}
        self.ensemble: Network | None = None
        self.directions: Mapping[str, Directions] = {}

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where the network runs."""

    def encode_prompts(
        self,
        prompt: str,
        negative_prompt: str,
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        """Make conditionings of the branches "positive" and "negative", as `encode_texts` makes them."""
        return self.encode_texts({"positive": prompt, "negative": negative_prompt}, batch_size, size, weighting, rules)

    def list_text_rows(self, texts: Iterable[str], rules: PromptRules = HERE) -> list[TextRow]:
        """Describe the rows of "prompt_embeds" of prompts that are evaluated together.

        Args:
            texts: the prompts.
            rules: how they are read.

        Returns:
            The parts in order; none where they are not known.
        """
        return []

    @abc.abstractmethod
    def encode_texts(
        self,
        texts: Mapping[str, str],
        batch_size: int,
        size: tuple[int, int],
        weighting: str = DEFAULT_WEIGHTING,
        rules: PromptRules = HERE,
    ) -> dict[str, Conditioning]:
        """Make a conditioning of `batch_size` rows for each text, all of one shape, so that they can share a batch.

        Args:
            texts: by name, with (word:1.2) weights and BREAK; of a name that begins with "negative",
                the text is a negative prompt.
            batch_size: rows.
            size: (width, height) in pixels, which some families condition on.
            weighting: what weights do, a key of `WEIGHTINGS`.
            rules: how the texts are read.

        Raises:
            PromptError: a text's syntax cannot be read.
            SettingsError: the rules ask for a layer that this family does not read.
        """

    @abc.abstractmethod
    def predict_raw(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Compute the network's output, (R, C, h, w) in the latents' dtype, for rows at their own times (R,)."""

    @abc.abstractmethod
    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of one picture."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The configuration of the model's scheduler, by diffusers' names; empty where it has none."""
        config = getattr(self.components.get("scheduler"), "config", None)
        return config if isinstance(config, Mapping) else {}

    def noise_schedule_for(self, width: int, height: int) -> NoiseSchedule:
        """Return the noise schedule at this size in pixels; some flow models shift it for large pictures."""
        return self.noise_schedule

    def embed_guidance(self, conditionings: dict[str, Conditioning], guidance_scale: float) -> dict[str, Conditioning]:
        """Return the conditionings with the scale as an input, for models whose traits say guidance is "embedded"."""
        return conditionings

    @abc.abstractmethod
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encode into latents (B, C, h, w), float32, scaled, of images (B, 3, H, W) in [0, 1]: the posterior's mean."""

    @abc.abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode into images (B, 3, H, W) in [0, 1], float32 on the CPU, of scaled latents."""

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode as `decode` does, without rounding into [0, 1], and with a gradient with respect to the latents.

        Raises:
            MethodFitError: this family's decoder has none.
        """
        raise MethodFitError(f"No gradient goes through the decoder of models of the {self.key} family.")

    def encode_with_gradients(self, images: torch.Tensor) -> torch.Tensor:
        """Encode as `encode_images` does, one picture (1, 3, H, W), with a gradient with respect to it.

        Raises:
            MethodFitError: this family's encoder has none.
        """
        raise MethodFitError(f"No gradient goes through the encoder of models of the {self.key} family.")

    @abc.abstractmethod
    def paint(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents into small cheap images (B, 3, h, w) in [0, 1], float32, where the device made them."""

    @property
    def paints_twice(self) -> bool:
        """Whether `sketch` is another way than `paint`, and a cheaper one."""
        return False

    def sketch(self, latents: torch.Tensor) -> torch.Tensor:
        """Map scaled latents to colors as cheaply as it can be done: else as `paint`."""
        return self.paint(latents)

    def preview(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents into small cheap images (B, 3, h, w) in [0, 1], float32 on the CPU; waits for them."""
        return self.paint(latents).cpu()

    def rows_that_fit(self, row: torch.Tensor) -> int:
        """Find the most rows like this one, (C, h, w), that are known to fit; 0 for no known limit.

        The memory of an evaluation grows with the numbers in its rows.
        """
        known = [size * rows for size, rows in self.rows_by_size.items()]
        return max(self.rows_together, min(known) // row.numel()) if known else 0

    def remember_rows(self, row: torch.Tensor, rows: int) -> None:
        """Remember that no more rows like this one, (C, h, w), fit into the device's memory than so many."""
        self.rows_by_size[row.numel()] = rows

    @contextlib.contextmanager
    def loras(self, choices: Sequence[Any]) -> Iterator[None]:
        """Provide the model with these LoRAs applied while the context lasts.

        Args:
            choices: (state dict or file path, weight) pairs.

        Raises:
            LoraError: a LoRA belongs to another family, or matches no layer.
        """
        if choices:
            raise SettingsError(f"LoRAs do not fit models of the {self.key} family.")
        yield

    @property
    def size_step(self) -> int:
        """Return what a size in pixels must be divisible by for this model and its companions."""
        return math.lcm(self.size_multiple, *(one.size_multiple for one in self.companions.values()))

    def require_size(self, width: int, height: int) -> None:
        """Raise SettingsError, naming the nearest sizes, if a side is no multiple of `size_step`."""
        require_multiples(width, height, self.size_step, "These models make" if self.companions else "This model makes")
        for companion in self.companions.values():
            companion.require_size(width, height)
