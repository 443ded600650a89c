"""From a request to edit and a loaded model to runs of the loop: up to the noise, and back down."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch

from pipelines.core.denoiser import Conditioning, Denoiser, Guidance
from pipelines.core.errors import PromptError
from pipelines.core.loop import Run
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import Level
from pipelines.core.types import Trajectory
from pipelines.edits.base import EditContext
from pipelines.edits.words import Words, read_words
from pipelines.families.base import LatentModel
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import Unguided
from pipelines.inversions import INVERSIONS
from pipelines.inversions.base import Inversion
from pipelines.requests.text_to_image import ResolvedRun
from pipelines.workflows.edit.request import Canvas, EditRequest

__all__ = ["Editing", "partial"]


def partial(levels: Sequence[Level], strength: float) -> list[Level]:
    """The levels of the last int(N * strength) steps, as diffusers counts them; a single level is no step."""
    steps = min(len(levels) - 1, math.floor((len(levels) - 1) * strength + 1e-9))
    return list(levels[len(levels) - 1 - steps :])


class Editing:
    """One edit on one loaded model: the runs it consists of.

    Args:
        request: checked, its base that of the resolved run.
        resolved: the base on this model, at the canvas's size.
        family: the model, its LoRAs already applied.
        canvas: the picture and mask at that size.
        cancelled: polled before every evaluation.
    """

    def __init__(
        self,
        request: EditRequest,
        resolved: ResolvedRun,
        family: LatentModel,
        canvas: Canvas,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        self.request, self.family, self.canvas, self.cancelled = request, family, canvas, cancelled
        self.edit = request.build_edit()
        self.inversion: Inversion = INVERSIONS[request.inversion.key].build(request.inversion.settings)
        self.resolved, self.noise_schedule, levels = resolved, resolved.noise_schedule, resolved.levels
        self.levels = partial(levels, self.inversion.strength if self.edit.inverts else self.edit.strength)
        if self.edit.inverts and len(self.levels) < 2:
            self.levels = levels[-2:]
        self.guidance = resolved.guidance
        pixels = torch.from_numpy(canvas.pixels.copy()).permute(2, 0, 1)[None].float() / 255
        self.image_latents = family.encode_images(pixels)
        self.source = NoiseSource([request.base.seed])
        self.noise = self.source(self.image_latents.cpu()).to(self.image_latents)

    @property
    def mask(self) -> torch.Tensor | None:
        """(1, 1, h, w) bool: a latent place may change if any of its pixels may."""
        if self.canvas.mask is None:
            return None
        height, width = self.image_latents.shape[-2:]
        pixels = torch.from_numpy(np.ascontiguousarray(self.canvas.mask))[None, None].float()
        return (torch.nn.functional.adaptive_max_pool2d(pixels, (height, width)) > 0).to(self.image_latents.device)

    @property
    def trajectory_key(self) -> Hashable:
        """What decides the inversion's trajectory, and nothing else; another edit of the picture finds it again.

        The weights count by their files, since a model of the same name may be another after a rescan.
        """
        base, request = self.request.base, self.request
        return (
            request.picture.digest,
            request.fit,
            base.model,
            base.loras,
            self.family.identity,
            request.source_prompt,
            request.inversion,
            tuple(self.levels),
            base.width,
            base.height,
            self._guidance_key,
        )

    @property
    def _guidance_key(self) -> Hashable:
        """What of the guidance the way up depends on: of a branch that is never evaluated, nothing."""
        base, (guidance, scale) = self.request.base, self._guidance_up
        if self.family.traits.guidance != "cfg":
            return scale  # an input of the network
        branches = {branch for level in self.levels for branch in guidance.plan(level)}
        if branches == {"positive"}:
            return None
        negative = base.negative_prompt if "negative" in branches else None
        others = sorted((name, value) for name, value in base.guidance.settings.items() if name != "guidance_scale")
        return base.guidance.key, tuple(others), scale, negative

    @property
    def _guidance_up(self) -> tuple[Guidance, float]:
        """The guidance of the way up, and its scale, which the inversion decides."""
        scale = self.inversion.guidance_scale(self.guidance.guidance_scale)
        base = self.request.base
        return GUIDANCE[base.guidance.key].build({**base.guidance.settings, "guidance_scale": scale}), scale

    def inversion_run(self) -> Run:
        """The run up: from the picture's latents to noise, guided by the source prompt."""
        guidance, scale = self._guidance_up
        denoiser = self._denoiser(guidance, [self.request.source_prompt], scale)
        return Run(
            denoiser,
            self.inversion.noising(),
            self.levels[::-1],
            self.inversion.start(self.image_latents),
            self.source,
            self.noise_schedule,
        )

    @contextlib.contextmanager
    def run(self, trajectory: Trajectory | None = None) -> Iterator[Run]:
        """The run down, the network dressed as the edit needs it while the context lasts.

        Args:
            trajectory: of `inversion_run`; None for an edit that does not invert.

        Raises:
            PromptError: the prompts do not fit the edit or each other.
        """
        base = self.request.base
        if trajectory is None:
            sampler, prompts = self.resolved.sampler, [base.prompt]
            first = self.levels[0]
            latents = first.alpha * self.image_latents + first.sigma * self.noise
        else:
            sampler, prompts = self.inversion.denoising(trajectory), [self.request.source_prompt, base.prompt]
            latents = self.inversion.forked(trajectory.steps[-1].latents)
        denoiser = self._denoiser(self.guidance, prompts, self.guidance.guidance_scale)
        context = EditContext(
            self.family.network,
            sampler,
            self.image_latents,
            self.noise,
            self.mask,
            lambda: self._words(self.request.source_prompt),
            lambda: self._words(base.prompt),
            "negative" in denoiser.guidance.plan(self.levels[0]),
        )
        with self.edit.applied(context) as dressed:
            yield Run(denoiser, dressed, self.levels, latents, self.source, self.noise_schedule)

    def _words(self, prompt: str) -> Words:
        tokenizer = self.family.components.get("tokenizer")
        if tokenizer is None:
            raise PromptError(
                "This model has no CLIP tokenizer, so its words cannot be edited one by one. Choose Plain re-prompting."
            )
        return read_words(tokenizer, prompt)

    def _denoiser(self, guidance: Guidance, prompts: Sequence[str], scale: float) -> Denoiser:
        base, family = self.request.base, self.family
        size = (base.width, base.height)
        encoded = [family.encode_prompts(prompt, base.negative_prompt, 1, size) for prompt in prompts]
        conditionings = _stacked(encoded)
        if family.traits.guidance != "cfg":
            guidance, conditionings = Unguided(), family.embed_guidance(conditionings, scale)
        return Denoiser(family, guidance, conditionings, self.cancelled)


def _stacked(encoded: Sequence[Mapping[str, Conditioning]]) -> dict[str, Conditioning]:
    """One conditioning a branch, its rows those of the prompts."""
    for branch in encoded[0]:
        if len({prompts[branch].signature for prompts in encoded}) > 1:
            raise PromptError("One of the two prompts fills more rows of the text encoder than the other. Shorten it.")
    return {branch: Conditioning.cat([prompts[branch] for prompts in encoded]) for branch in encoded[0]}
