"""What the tests of lora share."""

from __future__ import annotations

import torch


def state_of(one):
    """All that a patch could leave behind: objects, places and bits of parameters, hooks, attention processors."""
    state = {}
    for name, network in one.components.items():
        if not isinstance(network, torch.nn.Module):
            continue
        for path, parameter in network.named_parameters():
            state[name, path] = (id(parameter), parameter.data_ptr(), parameter.dtype, parameter.detach().clone())
        for path, module in network.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            state[name, path, "hooks"] = (type(module), *hooks, module.__dict__.get("forward"))
        if hasattr(network, "attn_processors"):
            state[name, "processors"] = {path: id(processor) for path, processor in network.attn_processors.items()}
    return state


def assert_unchanged(one, before):
    after = state_of(one)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if isinstance(value, tuple) and isinstance(value[-1], torch.Tensor):
            assert after[key][:-1] == value[:-1] and torch.equal(after[key][-1], value[-1]), key
        else:
            assert after[key] == value, key
