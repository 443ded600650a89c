"""Encoder propagation (Faster Diffusion): a UNet's encoder is run at key steps, its decoders between them at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from pipelines.caches.networks import find_module, work_of
from pipelines.caches.reuse import Groups, ReusingCache
from pipelines.caches.rows import RowOf, join_rows
from pipelines.core.caching import CachedRow, Place
from pipelines.core.devices import is_out_of_memory, release_unused_memory, upload
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Conditioning, Network
from pipelines.core.registry import setting
from pipelines.core.rows import rows_at_once

__all__ = ["EncoderPropagation", "EncoderPropagationSettings", "key_steps"]

_KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
_OF = 50
_ENCODER = "encoder"
_FORESEEN = "foreseen"


@dataclasses.dataclass(frozen=True)
class EncoderPropagationSettings:
    spacing: str = setting(
        "non-uniform", "The key steps: the paper's, dense at first, or every n-th.", choices=("non-uniform", "uniform")
    )
    interval: int = setting(
        2, "With uniform spacing the encoder is run at every n-th step; 1 runs it always.", low=1, high=20, step=1
    )
    together: int = setting(
        16, "Decoders of a span that are run in one batch; 1 runs each as the sampler asks.", low=1, high=100, step=1
    )


def key_steps(num_steps: int) -> frozenset[int]:
    """Scale the paper's nine key steps of 50 to another number of steps."""
    return frozenset(round(key * num_steps / _OF) for key in _KEYS)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What an evaluation does.

    Attributes:
        reused: groups of modules that are not run.
        ahead: coming steps whose decoders are run in the same batch.
        is_foreseen: whether an earlier evaluation has answered this one; then nothing is run.
    """

    reused: tuple[str, ...] = ()
    ahead: int = 0
    is_foreseen: bool = False


@dataclasses.dataclass(frozen=True)
class _Foreseen:
    """Holds what was computed for a coming time, and whether it was asked for since."""

    answer: RowOf
    is_taken: bool = False


@dataclasses.dataclass(frozen=True)
class EncoderPropagation(ReusingCache):
    """Runs the encoder and the middle block at key steps, and in between the decoder alone, on their last outputs.

    The decoder is given the present time and prompt, and not the present latents: they enter by the encoder only. So
    what it will say until the next key step can be computed at once, in one batch. An answer is found again by its
    time: a sampler that asks at other times than those at which its steps begin gets a decoder of its own for them.

    Source: Li et al., Faster diffusion: Rethinking the role of the encoder for diffusion model inference,
        arXiv:2312.09608, section 3.2, its non-uniform key steps and its parallel decoders.
    Differs: a key step's own decoder is not in the batch, so that every evaluation at a key step is the uncached one,
        however many the sampler makes; nothing of the first noise is added to the latents.
    """

    spacing: str = "non-uniform"
    interval: int = 2
    together: int = 16

    @classmethod
    def build(cls, settings: EncoderPropagationSettings = EncoderPropagationSettings()) -> EncoderPropagation:
        return cls(settings.spacing, settings.interval, settings.together)

    def groups(self, module: Any) -> Groups:
        if not hasattr(module, "down_blocks"):
            raise MethodFitError("This network has no UNet's encoder, which this cache leaves out.")
        middle = [module.mid_block] if module.mid_block is not None else []
        encoder: list[torch.nn.Module] = [module.conv_in, *module.down_blocks, *middle]
        return {_ENCODER: encoder}

    def is_key(self, step: int, num_steps: int) -> bool:
        """Say whether the encoder is run at this step of the run's whole schedule."""
        return step % self.interval == 0 if self.spacing == "uniform" else step in key_steps(num_steps)

    def reused(self, place: Place) -> tuple[str, ...]:
        return () if self.is_key(place.step, place.num_steps) else (_ENCODER,)

    def steps_ahead(self, step: int, num_steps: int) -> int:
        if self.is_key(step, num_steps):
            return 0
        ahead = 0
        while ahead < self.together - 1 and not self.is_key(step + ahead + 1, num_steps):
            ahead += 1
        return ahead

    def plan(self, rows: Sequence[CachedRow]) -> _Plan:
        row = rows[0]
        reused, coming = self.reused_now(rows), row.place.coming
        if not reused or coming is None:
            return _Plan(reused)
        if row.place.level.timestep in row.state.get(_FORESEEN, {}):
            return _Plan(is_foreseen=True)
        return _Plan(reused, len(coming))

    def evaluate(
        self,
        network: Network,
        plan: _Plan,
        rows: Sequence[CachedRow],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        if plan.is_foreseen:
            return self._recall(find_module(network), rows)
        if plan.ahead:
            return self._look_ahead(network, plan, rows, latents, conditioning)
        with self.applied(network, plan.reused, rows):
            raw = network.predict_raw(latents, timesteps, conditioning)
        if not plan.reused:
            for row in rows:
                row.pending[_FORESEEN] = {}
        return raw

    def _recall(self, module: torch.nn.Module, rows: Sequence[CachedRow]) -> torch.Tensor:
        """Give what an earlier evaluation has said of the present one."""
        decoder, answers = self._share_decoder(module, rows), list[RowOf]()
        for row in rows:
            foreseen, time = row.state[_FORESEEN], row.place.level.timestep
            answers.append(foreseen[time].answer)
            row.ran, row.moved = 0.0, 0.0 if foreseen[time].is_taken else decoder
            row.pending[_FORESEEN] = {**foreseen, time: _Foreseen(answers[-1], True)}
        answer: torch.Tensor = join_rows(answers)
        return answer

    def _share_decoder(self, module: torch.nn.Module, rows: Sequence[CachedRow]) -> float:
        return 1 - work_of(rows).share(self.groups(module)[_ENCODER])

    def _look_ahead(
        self,
        network: Network,
        plan: _Plan,
        rows: Sequence[CachedRow],
        latents: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """Run the decoders of the present time and the coming ones; returns the first answer and keeps the others."""
        count = plan.ahead + 1
        levels = [(row.place.level, *(row.place.coming or ())) for row in rows]
        times = [[row_levels[number].timestep for row_levels in levels] for number in range(count)]
        answers = self._run_decoders(network, plan, rows, latents, times, conditioning)
        decoder = self._share_decoder(find_module(network), rows)
        for index, row in enumerate(rows):
            row.ran, row.moved = count * decoder, -plan.ahead * decoder
            row.pending[_FORESEEN] = {
                times[number][index]: _Foreseen(RowOf(answers[number], index)) for number in range(1, count)
            }
        return answers[0]

    def _run_decoders(
        self,
        network: Network,
        plan: _Plan,
        rows: Sequence[CachedRow],
        latents: torch.Tensor,
        times: Sequence[Sequence[float]],
        conditioning: Conditioning,
    ) -> list[torch.Tensor]:
        """Run the rows' decoders at each of these times, as many of them in one batch as the memory holds."""
        answers: list[torch.Tensor] = []
        together = max(rows_at_once(network, torch.cat([latents] * len(times))) // len(rows), 1)
        while len(answers) < len(times):
            some = times[len(answers) : len(answers) + together]
            timesteps = upload(torch.tensor(some, dtype=torch.float64).flatten(), latents.device, latents.dtype)
            inputs = torch.cat([latents] * len(some)), timesteps, Conditioning.cat([conditioning] * len(some))
            try:
                with self.applied(network, plan.reused, [*rows] * len(some)):
                    answers += network.predict_raw(*inputs).split(len(rows))
                continue
            except RuntimeError as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback keeps the tensors of the failed evaluation.
            release_unused_memory(latents.device)
            together = len(some) // 2
        return answers
