"""The errors a person can meet.

Every one says what was wrong, the value that was wrong, and what to do about it, in one sentence
that the page shows as it stands. Anything else that is raised is a bug of ours.

StepwiseError
├── SettingsError           a request asks for something that cannot be
│   ├── UnknownMethodError  no method, model or setting of that name
│   ├── MethodFitError      the method does not fit the model
│   ├── PromptError         the prompt cannot be read
│   └── PictureError        an uploaded picture cannot be used
├── ModelError
│   ├── ModelMissingError   the weights are not on this machine and cannot be had
│   ├── ModelFileError      a file is broken, or is not what its name says
│   └── LoraError           a LoRA does not belong to the model
├── BusyError               the queue or the memory is full: later it works
├── TrainingError           a training run cannot start or go on
└── StoreError              a result cannot be written or found
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BusyError",
    "LoraError",
    "MethodFitError",
    "ModelError",
    "ModelFileError",
    "ModelMissingError",
    "PictureError",
    "PromptError",
    "SettingsError",
    "StepwiseError",
    "StoreError",
    "TrainingError",
    "UnknownMethodError",
    "describe_overflow",
]


class StepwiseError(Exception):
    """The base of every error whose text is meant for the person at the page."""


class SettingsError(StepwiseError, ValueError):
    """A request asks for something that cannot be."""


class UnknownMethodError(SettingsError):
    """No method, model or setting has this name."""

    def __init__(self, kind: str, key: object, keys: Iterable[str]):
        choices = ", ".join(keys)
        remedy = f"Choose one of: {choices}." if choices else f"There is no {kind} here."
        super().__init__(f"Unknown {kind} {str(key)[:80]!r}. {remedy}")
        self.kind, self.key = kind, key


class MethodFitError(SettingsError):
    """The method exists but does not fit this model."""


class PromptError(SettingsError):
    """The prompt cannot be read."""


class PictureError(SettingsError):
    """An uploaded picture cannot be used."""


class ModelError(StepwiseError):
    """A model cannot be used."""


class ModelMissingError(ModelError):
    """The weights are not on this machine and cannot be fetched."""


class ModelFileError(ModelError):
    """A file is broken or is not what its name says."""


class LoraError(ModelError):
    """A LoRA cannot be applied to this model."""


class BusyError(StepwiseError):
    """The queue or the memory is full; the same request works later."""


class TrainingError(StepwiseError):
    """A training run cannot start or go on."""


class StoreError(StepwiseError):
    """A result cannot be written, read or found."""


def describe_overflow(dtype: object) -> str:
    """Say that latents hold NaN or infinity, and what to do about it.

    Args:
        dtype: of the network, e.g. torch.float16.
    """
    if str(dtype).endswith("float16") and not str(dtype).endswith("bfloat16"):
        remedy = "The network overflows in float16: start the studio with --dtype bf16, or fp32 where that is missing."
    else:
        remedy = "Choose a lower guidance scale or another sampler; if all fail, the model's file may be broken."
    return f"The picture has infinite or NaN values and was not saved. {remedy}"
