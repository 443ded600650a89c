"""Checkpoints from which a run goes on bit for bit: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipelines.core.errors import TrainingError
from pipelines.training.exchange import swap

__all__ = ["load_checkpoint", "save_checkpoint"]

Tensors = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    networks: torch.nn.Module,
    averaged: Tensors,
    optimizer: torch.optim.Optimizer,
    facts: dict,
) -> None:
    """Write a checkpoint; the one before stays until this one is complete.

    Args:
        folder: where; it is replaced.
        networks: what is trained.
        averaged: its weights' moving average, by name.
        optimizer: its state is kept, by the number of the parameter.
        facts: JSON values to find again, among them "step".
    """
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    state = optimizer.state_dict()["state"]
    flat = {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}
    for name, tensors in (
        ("networks", networks.state_dict()),
        ("averaged", averaged),
        ("optimizer", flat),
    ):
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(contiguous, new / f"{name}.safetensors")
    (new / "facts.json").write_text(json.dumps(facts, indent=1), "utf-8")
    swap(new, folder)


def load_checkpoint(
    folder: Path, networks: torch.nn.Module, averaged: Tensors, optimizer: torch.optim.Optimizer
) -> dict | None:
    """Fill networks, average and optimizer from a checkpoint.

    Returns: the facts, or None when there is no checkpoint.
    Raises: TrainingError when it is broken or of other networks.
    """
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")
    if not folder.exists():
        return None
    try:
        facts = json.loads((folder / "facts.json").read_text("utf-8"))
        networks.load_state_dict(load_file(folder / "networks.safetensors"))
        for name, value in load_file(folder / "averaged.safetensors").items():
            averaged[name].copy_(value)
        state: dict[int, Tensors] = {}
        for key, value in load_file(folder / "optimizer.safetensors").items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"The checkpoint {folder.name!r} does not fit this run: {str(error)[:300]} "
            "Use another --run-dir to start anew."
        ) from error
    return facts
