"""Rounding of attention's scores, after their softmax: evenly, or by powers of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipelines.core.errors import MethodFitError
from pipelines.quantizers.simulated.scores import ScoreSpec

if TYPE_CHECKING:
    from pipelines.quantizers.simulated.rounded_scores import RoundedScores

__all__ = ["attach_scores"]


class _Switch:
    """Enters the mode before an attention's call, and leaves it however the call ends."""

    def __init__(self, spec: ScoreSpec):
        self.spec = spec
        self.entered: list[RoundedScores] = []

    def enter(self, network: torch.nn.Module, args: object) -> None:
        from pipelines.quantizers.simulated.rounded_scores import RoundedScores  # late: it needs PyTorch imported

        mode = RoundedScores(self.spec)
        mode.__enter__()
        self.entered.append(mode)

    def leave(self, network: torch.nn.Module, args: object, output: object) -> None:
        if self.entered:
            self.entered.pop().__exit__(None, None, None)


def attach_scores(network: torch.nn.Module, spec: ScoreSpec) -> None:
    """Round the scores of all of a network's attentions from now on; nothing is attached for "full".

    The hooks stand at each attention and not at the network, so that what else watches the network's operations
    does not part them before.

    Raises:
        MethodFitError: the network has no attention that could be found.
    """
    if spec.form == "full":
        return
    # diffusers' attentions, and only they, have a processor.
    attentions = [module for module in network.modules() if hasattr(module, "processor")]
    if not attentions:
        raise MethodFitError("This model has no attention whose scores could be rounded. Leave them as they are.")
    for module in attentions:
        switch = _Switch(spec)
        module.register_forward_pre_hook(switch.enter)
        module.register_forward_hook(switch.leave, always_call=True)
