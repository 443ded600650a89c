"""Any other diffusers pipeline, through its own call: our previews and our cancel, and nothing else of ours."""

from __future__ import annotations

import dataclasses
import inspect
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.core.cancelling import Cancelled
from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.types import Traits
from pipelines.families.preview import Factors, fitted_to, linear_preview, parse_factors
from pipelines.weights.libraries import find_execution_device

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["StockPipeline", "StockResult", "StockStep"]

_PICTURE_VAES = {"AutoencoderKL", "AutoencoderTiny", "AutoencoderDC"}
"""VAEs that make a (B, C, h, w) latent of a picture."""


@dataclasses.dataclass(frozen=True)
class StockStep:
    """Describes one finished step of the pipeline.

    Attributes:
        index: from 0.
        num_steps: steps in the whole call, as far as the pipeline says; 0 if it does not.
        latents: (B, C, h, w), noisy, as the pipeline scales them; None where it shows none of that shape.
        seconds: wall time since the call began.
    """

    index: int
    num_steps: int
    latents: torch.Tensor | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class StockResult:
    """Says what the pipeline returned in the end: its own output object, with `images` or `frames`."""

    output: Any
    seconds: float


class _Stopped(Exception):
    """Raised inside the pipeline's call to leave it."""


class StockPipeline:
    """Runs a diffusers pipeline that no family here rebuilds. It is not a Family: it has no denoiser of ours.

    Args:
        pipe: the loaded pipeline.
        preview: the content of the model folder's preview.json, if there is one.

    Attributes:
        traits: backbone "pipeline": methods that need a denoiser do not fit.
        accepted: names of the arguments that the pipeline's call takes.
        guidance_name: the argument that is the scale of classifier-free guidance, or of a network that takes it as an
            input; "" where the call takes none.
        watched: how steps are seen and cancelled: "step_end", "callback" (the older form), or "none", when
            there are neither steps nor previews and a cancel takes effect only at the end.
        default_size: (width, height) in pixels, None where the pipeline does not say.
        facts: what else preview.json says; empty without one.
    """

    key = "stock"

    def __init__(self, pipe: DiffusionPipeline, preview: Mapping[str, object] | None = None):
        self.pipe = pipe
        self._parameters = inspect.signature(type(pipe).__call__).parameters
        self.accepted = frozenset(self._parameters) - {"self", "args", "kwargs"}
        self.watched = next(
            (
                way
                for way, name in (("step_end", "callback_on_step_end"), ("callback", "callback"))
                if name in self.accepted
            ),
            "none",
        )
        distilled = _is_distilled(pipe)
        # Where a call takes both, guidance_scale is the input of a distilled network, and ignored by any other.
        names = ("guidance_scale",) if distilled else ("true_cfg_scale", "guidance_scale")
        self.guidance_name = next((name for name in names if name in self.accepted), "")
        guidance = ("embedded" if distilled else "cfg") if self.guidance_name else "none"
        self.traits = Traits(self.key, _find_prediction_type(pipe), "pipeline", guidance)
        self.default_size = _find_default_size(pipe)
        self.facts = preview or {}
        self._preview = preview
        self._factors: Factors | None = None

    @property
    def components(self) -> Mapping[str, Any]:
        """The pipeline's parts by name."""
        return cast("Mapping[str, Any]", self.pipe.components)

    def run(
        self, arguments: Mapping[str, object], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[StockStep | StockResult]:
        """Return the steps of one call, then its result.

        The call blocks, so it runs in a thread of its own, which has ended when the iterator has, however it
        ends: closing the iterator cancels the call.

        Args:
            arguments: diffusers' names to values; None and "" are left to the pipeline.
            cancelled: polled after every step.

        Raises:
            MethodFitError: the pipeline's call does not take one of the arguments.
            SettingsError: the pipeline refuses one of their values, in its own words.
            Cancelled: the run was stopped; nothing of it is a result.
        """
        keywords = {name: value for name, value in arguments.items() if value is not None and value != ""}
        unknown = sorted(set(keywords) - self.accepted)
        if unknown:
            raise MethodFitError(f"{type(self.pipe).__name__} has no setting {unknown[0]!r}. Leave it as it was.")
        if "intermediate_timesteps" in self.accepted and keywords.get("num_inference_steps", 2) != 2:
            # SANA-Sprint's default is for two steps, and refused with any other number; None spaces them evenly.
            keywords["intermediate_timesteps"] = None
        self._fit_preview()
        return self._stream_events(keywords, cancelled)

    def _stream_events(
        self, keywords: dict[str, Any], cancelled: Callable[[], bool]
    ) -> Iterator[StockStep | StockResult]:
        events: queue.SimpleQueue = queue.SimpleQueue()
        closed = threading.Event()
        call = threading.Thread(
            target=self._call_pipeline, args=(keywords, events, lambda: closed.is_set() or cancelled()), daemon=True
        )
        call.start()
        has_begun = False
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    if not has_begun and (refusal := _explain_refusal(event)):
                        raise SettingsError(f"This model's own pipeline refuses these settings: {refusal}") from event
                    raise event
                has_begun = True
                yield event
                if isinstance(event, StockResult):
                    return
        finally:
            closed.set()
            call.join()

    def _call_pipeline(self, keywords: dict[str, Any], events: queue.SimpleQueue, stop: Callable[[], bool]) -> None:
        """The thread: the pipeline's own call, its steps and its end put into `events`."""
        start_time = time.perf_counter()
        # Whatever happens an end is put, or the caller would wait for ever.
        end: BaseException | StockResult = Cancelled()
        try:
            output = self.pipe(**keywords, **self._build_callbacks(keywords, events, stop, start_time))
            if not stop():
                end = StockResult(output, time.perf_counter() - start_time)
        except _Stopped:
            self._offload()
        except BaseException as error:
            end = error
            self._offload()
        finally:
            events.put(end)

    def _offload(self) -> None:
        """What the pipeline does at its own end, and a call that was left could not: offload."""
        if getattr(self.pipe, "_all_hooks", None):
            self.pipe.maybe_free_model_hooks()

    def _build_callbacks(
        self, keywords: Mapping[str, object], events: queue.SimpleQueue, stop: Callable[[], bool], start_time: float
    ) -> dict[str, Any]:
        """The arguments through which the pipeline reports its steps."""

        def report(index: int, latents: torch.Tensor | None) -> None:
            if stop():
                raise _Stopped
            pictures = None if latents is None else self._unpack(latents, keywords)
            events.put(StockStep(index, self._find_num_steps(keywords), pictures, time.perf_counter() - start_time))

        def on_step_end(
            pipe: DiffusionPipeline, index: int, timestep: object, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            report(index, tensors.get("latents"))
            return {}

        if self.watched == "step_end":
            tensor_names = [name for name in ("latents",) if name in getattr(self.pipe, "_callback_tensor_inputs", ())]
            arguments = {"callback_on_step_end_tensor_inputs": tensor_names}
            arguments = {name: value for name, value in arguments.items() if name in self.accepted}
            return {"callback_on_step_end": on_step_end, **arguments}
        if self.watched == "callback":
            every = {"callback_steps": 1} if "callback_steps" in self.accepted else {}
            return {"callback": lambda index, timestep, latents: report(index, latents), **every}
        return {}

    def _find_num_steps(self, keywords: Mapping[str, object]) -> int:
        num_steps = getattr(self.pipe, "num_timesteps", None) or keywords.get("num_inference_steps")
        if num_steps is None and "num_inference_steps" in self._parameters:
            num_steps = self._parameters["num_inference_steps"].default
        return num_steps if isinstance(num_steps, int) else 0

    def _unpack(self, latents: torch.Tensor, keywords: Mapping[str, object]) -> torch.Tensor | None:
        """(B, C, h, w) latents, from the packed form where the pipeline has the inverse; else None."""
        unpack = getattr(self.pipe, "_unpack_latents", None)
        if latents.ndim == 3 and unpack is not None:
            width, height = self.default_size or (None, None)
            arguments = {
                "latents": latents,
                "height": keywords.get("height", height),
                "width": keywords.get("width", width),
                "vae_scale_factor": getattr(self.pipe, "vae_scale_factor", None),
            }
            if set(inspect.signature(unpack).parameters) == set(arguments) and None not in arguments.values():
                latents = unpack(**arguments)
        if latents.ndim == 5 and latents.shape[2] == 1:
            latents = latents[:, :, 0]
        return latents.detach() if latents.ndim == 4 else None

    def preview(self, step: StockStep) -> torch.Tensor | None:
        """Return small images (B, 3, h, w) in [0, 1] of a step's noisy latents; None where there are none to show."""
        if step.latents is None or self._factors is None or step.latents.shape[1] != len(self._factors.factors):
            return None
        return linear_preview(step.latents, self._factors)

    @no_grad
    def _fit_preview(self) -> None:
        """Once, before the first call: while a call runs, the VAE is the pipeline's alone."""
        vae: Any = getattr(self.pipe, "vae", None)
        if self._factors is not None or type(vae).__name__ not in _PICTURE_VAES or self.watched == "none":
            return
        if self._preview is not None:
            self._factors = parse_factors(self._preview, vae.config.latent_channels)
            return

        def encode(images: torch.Tensor) -> torch.Tensor:
            encoded = vae.encode((2 * images - 1).to(find_execution_device(vae), vae.dtype))
            if hasattr(encoded, "latent_dist"):
                latents = encoded.latent_dist.mode()
            else:
                latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent
            return (latents - (vae.config.get("shift_factor") or 0.0)) * (vae.config.get("scaling_factor") or 1.0)

        self._factors = fitted_to(encode, self.pipe.vae_scale_factor)


def _explain_refusal(error: BaseException) -> str:
    """What diffusers says of an argument, as a sentence; "" for any other error, which is a bug.

    Such an error is a plain ValueError that diffusers' own code raises before the first step.
    """
    if type(error) is not ValueError or error.__traceback__ is None:
        return ""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not frame.f_globals.get("__name__", "").startswith("diffusers."):
        return ""
    message = " ".join(str(error).replace("`", "").split())[:300]
    return message if message.endswith(".") else f"{message}."


def _find_prediction_type(pipe: DiffusionPipeline) -> str:
    scheduler = getattr(pipe, "scheduler", None)
    kind = scheduler.config.get("prediction_type", "") if scheduler is not None else ""
    if "FlowMatch" in type(scheduler).__name__ or kind.startswith("flow"):
        return "flow"
    return kind or "epsilon"


def _is_distilled(pipe: DiffusionPipeline) -> bool:
    """Whether the network takes the guidance scale as an input."""
    transformer = getattr(pipe, "transformer", None)
    return bool(transformer is not None and transformer.config.get("guidance_embeds"))


def _find_default_size(pipe: DiffusionPipeline) -> tuple[int, int] | None:
    side, factor = getattr(pipe, "default_sample_size", None), getattr(pipe, "vae_scale_factor", None)
    return (side * factor,) * 2 if isinstance(side, int) and isinstance(factor, int) else None
