"""From a request to edit and a loaded model to runs of the loop: up to the noise, and back down."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator

import numpy as np
import torch

from pipelines.core.loop import Run
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Addition
from pipelines.core.types import Trajectory
from pipelines.edits.base import EditContext, EditPictures
from pipelines.families.latent_model import LatentModel
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import TARGET
from pipelines.inversions.unasked import AskedRows, PromptedSource, Unasked, UnaskedFrom
from pipelines.requests.passes import partial
from pipelines.requests.prompts import prompt_rules
from pipelines.requests.run_identity import identify_model
from pipelines.requests.steering import build_additions
from pipelines.requests.text_to_image import ResolvedRun
from pipelines.workflows.edit.canvas import Canvas, lay_over
from pipelines.workflows.edit.denoisers import EditDenoisers
from pipelines.workflows.edit.encoded import EncodedPictures, to_tensor
from pipelines.workflows.edit.request import EditRequest

__all__ = ["Editing"]


class Editing:
    """Holds one edit on one loaded model: the runs it consists of.

    Args:
        request: checked, its base that of the resolved run.
        resolved: the base on this model, at the canvas's size.
        family: the model, its LoRAs already applied.
        canvas: the picture and mask at that size.
        cancelled: polled before every evaluation.
        pictures: that were encoded for earlier edits.
    """

    def __init__(
        self,
        request: EditRequest,
        resolved: ResolvedRun,
        family: LatentModel,
        canvas: Canvas,
        cancelled: Callable[[], bool] = lambda: False,
        pictures: EncodedPictures | None = None,
    ):
        self.request, self.family, self.canvas = request, family, canvas
        self.edit = request.build_edit()
        self.inversion = INVERSIONS.build(request.inversion)
        self.denoisers = EditDenoisers(request, resolved, family, self.edit, self.inversion, cancelled)
        self.resolved, self.noise_schedule, levels = resolved, resolved.noise_schedule, resolved.levels
        self.levels = partial(levels, self._strength)
        if self.edit.inverts and len(self.levels) < 2:
            self.levels = list(levels[-2:])
        self.guidance = resolved.guidance
        self.pixels = to_tensor(canvas.pixels)
        pictures, reference = pictures or EncodedPictures(), canvas.reference
        self.encoded = pictures.encode(family, canvas.pixels)
        self.inverted = self.encoded if reference is None else pictures.encode(family, reference)
        self.image_latents, self.inverted_latents = self.encoded.latents.clone(), self.inverted.latents.clone()
        self.source = NoiseSource([request.base.seed])
        self.noise = self.source(self.image_latents.cpu()).to(self.image_latents)

    @property
    def _strength(self) -> float:
        return min(self.inversion.strength, self.edit.strength) if self.edit.inverts else self.edit.strength

    @property
    def weights(self) -> torch.Tensor | None:
        """(1, 1, h, w) float32, 0 to 1: a latent place may change as much as any of its pixels may."""
        if self.canvas.weights is None:
            return None
        height, width = self.image_latents.shape[-2:]
        pixels = torch.from_numpy(np.ascontiguousarray(self.canvas.weights))[None, None].float()
        return torch.nn.functional.adaptive_max_pool2d(pixels, (height, width)).to(self.image_latents.device)

    @property
    def mask(self) -> torch.Tensor | None:
        """(1, 1, h, w) bool: where a latent place may change."""
        return None if (weights := self.weights) is None else weights > 0

    @property
    def _moved(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Latent places of which half belongs to an object that is moved, before and after."""
        if self.canvas.placed is None:
            return None
        placement = self.canvas.placed[1]
        before, after = (self._shrink(places) >= 0.5 for places in (placement.before, placement.after))
        return before, after

    @property
    def _pictures(self) -> EditPictures:
        weights = self.canvas.weights
        mask = None if weights is None else torch.from_numpy((weights > 0).astype(np.float32))[None, None]
        return EditPictures(self.pixels, mask, self.family.decode_with_gradients, self.family.encode_images)

    def _shrink(self, places: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(places.astype(np.float32))[None, None]
        shape = (self.image_latents.shape[-2], self.image_latents.shape[-1])
        return torch.nn.functional.adaptive_avg_pool2d(pixels, shape).to(self.image_latents.device)

    @property
    def trajectory_key(self) -> Hashable:
        """What decides the inversion's trajectory, and nothing else; another edit of the picture finds it again.

        The weights count by their files, since a model of the same name may be another after a rescan.
        """
        base, request = self.request.base, self.request
        return (
            self._inverted_digest,
            request.fit,
            base.model,
            base.loras,
            identify_model(self.family) or self.family.identity,
            self.denoisers.inverted_prompt,
            base.prompt_weighting,
            prompt_rules(base),
            request.inversion,
            base.seed if self.inversion.is_random else None,
            tuple(self.levels),
            base.width,
            base.height,
            self._guidance_key,
        )

    @property
    def _inverted_digest(self) -> str:
        request = self.request
        return request.reference.digest if request.reference is not None else request.picture.digest

    @property
    def _guidance_key(self) -> Hashable:
        """What of the guidance the way up depends on: of a branch that is never evaluated, nothing."""
        base, (guidance, scale) = self.request.base, self.denoisers.inversion_guidance
        if self.family.traits.guidance != "cfg":
            return scale  # an input of the network
        branches = {branch for level in self.levels for branch in guidance.plan(level)}
        if branches == {"positive"}:
            return None
        negative = base.negative_prompt if "negative" in branches else None
        others = sorted((name, value) for name, value in base.guidance.settings.items() if name != "guidance_scale")
        return base.guidance.key, tuple(others), scale, negative

    def inversion_run(self) -> Run:
        """Build the run up: from the picture's latents to noise, guided by the source prompt."""
        return Run(
            self.denoisers.build_inverting(),
            self.inversion.noising(),
            self.levels[::-1],
            self.inversion.start(self.inverted_latents),
            self.source,
            self.noise_schedule,
        )

    @contextlib.contextmanager
    def run(self, trajectory: Trajectory | None = None) -> Iterator[Run]:
        """Yield the run down, the network patched as the edit needs it while the context lasts.

        Args:
            trajectory: of `inversion_run`; None for an edit that does not invert.

        Raises:
            PromptError: the prompts do not fit the edit or each other.
        """
        unasked = None
        if trajectory is None:
            sampler = self.resolved.sampler
            latents = self.edit.start(self.image_latents, self.noise, self.levels[0])
        else:
            sampler = self.inversion.denoising(trajectory, self.guidance.guidance_scale)
            if self.inversion.holds_source:
                unasked = Unasked(sampler, trajectory)
                sampler = sampler if self.edit.looks_at_source else unasked
            latents = self.inversion.forked(trajectory.steps[-1].latents)
            if self.edit.takes_reference:
                latents = self._start_from_source(latents)
        denoiser = self.denoisers.build(trajectory is not None, len(self.levels) - 1)
        denoiser.additions = self._build_additions(len(latents))
        guided = "negative" in denoiser.guidance.plan(self.levels[0])
        asked = None
        if guided and trajectory is not None and self.inversion.holds_source and self.edit.looks_at_prompt_alone:
            asked = AskedRows()
            sampler = PromptedSource(sampler, denoiser.guidance, asked)
        if unasked is not None and self.edit.looks_at_source and self.edit.looks_until < 1:
            sampler = UnaskedFrom(sampler, unasked, self.edit.looks_until)
        context = EditContext(
            self.family.network,
            sampler,
            self.image_latents,
            self.noise,
            self.mask,
            lambda: self.denoisers.read_words(self.request.source_prompt),
            lambda: self.denoisers.read_words(self.request.base.prompt),
            guided and asked is None,
            self._pictures,
            self.denoisers.read_words,
            self.denoisers.encode_text,
            self.weights,
            self._moved,
            asked,
        )
        with self.edit.applied(context) as sampler:
            yield Run(denoiser, sampler, self.levels, latents, self.source, self.noise_schedule)

    def _build_additions(self, rows: int) -> list[Addition]:
        """What the pictures of the request add to the edit; the source beside it is drawn as without them."""
        shares = [1.0] if rows == 1 else [0.0, 1.0]
        lay = functools.partial(lay_over, self.request, self.canvas)
        return build_additions(self.request.base, self.family, shares, lay)

    def _start_from_source(self, latents: torch.Tensor) -> torch.Tensor:
        """The rows of reference and edit, the edit's being the noised source."""
        level = self.levels[0]
        pairs = latents.unflatten(0, (-1, 2)).clone()
        pairs[:, TARGET] = level.alpha * self.image_latents + level.sigma * self.noise
        return pairs.flatten(0, 1)
