"""Our decorators do what PyTorch's do."""

from __future__ import annotations

import pytest
import torch

from pipelines.core.gradients import inference_mode, no_grad


@pytest.mark.parametrize(("ours", "theirs"), [(no_grad, torch.no_grad), (inference_mode, torch.inference_mode)])
def test_a_function_runs_in_the_mode_and_leaves_the_caller_s(ours, theirs):
    def read(fails=False):
        """Read it."""
        if fails:
            raise KeyError
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    decorated, plain = ours(read), theirs()(read)
    for _ in range(2):
        assert decorated() == plain() != read()
        with pytest.raises(KeyError):
            decorated(fails=True)
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert decorated.__name__ == "read" and decorated.__doc__ == "Read it."


def test_a_generator_s_caller_keeps_its_own_mode_between_the_steps():
    @no_grad
    def count():
        given = yield torch.is_grad_enabled()
        yield given, torch.is_grad_enabled()

    steps = count()
    assert next(steps) is False and torch.is_grad_enabled()
    assert steps.send(3) == (3, False) and torch.is_grad_enabled()
