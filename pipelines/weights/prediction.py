"""What a checkpoint says of its network's output: epsilon or v, and whether its schedule ends in pure noise.

Sources: the marks `v_pred` and `ztsnr` are those that ComfyUI and Forge read (comfy/supported_models.py, SDXL); the
metadata is that of the ModelSpec standard (Stability AI, modelspec 1.0) and of kohya's scripts (`ss_*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from pipelines.weights.files import Tensor

__all__ = ["Prediction", "prediction_of"]

_WORDS = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "vpred": "v_prediction",
    "v_pred": "v_prediction",
    "velocity": "v_prediction",
    "eps": "epsilon",
    "epsilon": "epsilon",
    "noise": "epsilon",
}
_PREDICTION_FIELDS = ("modelspec.prediction_type", "prediction_type", "ss_prediction_type", "ot_prediction_type")
_ZERO_SNR_FIELDS = (
    "ss_zero_terminal_snr",
    "zero_terminal_snr",
    "modelspec.zero_terminal_snr",
    "ztsnr",
    "rescale_betas_zero_snr",
)
_TRUE = {"true", "1", "yes", "on"}


class Prediction(NamedTuple):
    """Says what a checkpoint tells of its output.

    Attributes:
        prediction: "v_prediction", "epsilon", or "" where nothing tells.
        zero_snr: whether the last time step has no signal.
        edm: whether the network's time is EDM's, ln(sigma) / 4.
        note: why the form is not read, as a sentence; "" if it is.
    """

    prediction: str = ""
    zero_snr: bool = False
    edm: bool = False
    note: str = ""


def prediction_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Prediction:
    """Say what a UNet's checkpoint says that it predicts."""
    names = {name.rpartition("model.diffusion_model.")[2] for name in tensors}
    if any(name.startswith("edm_vpred.") for name in names):
        return Prediction("v_prediction", edm=True)
    if {"edm_mean", "edm_std"} <= names:
        return Prediction(
            note="It was trained in EDM's form with latents of its own mean and deviation, as Playground 2.5, "
            "which is read only as a diffusers folder."
        )
    prediction = "v_prediction" if "v_pred" in names else _read_prediction_type(metadata)
    zero_snr = "ztsnr" in names or any(metadata.get(field, "").strip().lower() in _TRUE for field in _ZERO_SNR_FIELDS)
    return Prediction(prediction, zero_snr)


def _read_prediction_type(metadata: Mapping[str, str]) -> str:
    for field in _PREDICTION_FIELDS:
        word = _WORDS.get(metadata.get(field, "").strip().lower())
        if word:
            return word
    if metadata.get("ss_v_parameterization", "").strip().lower() in _TRUE:
        return "v_prediction"
    architecture = metadata.get("modelspec.architecture", "").lower()
    if re.search(r"stable-diffusion-v2-\d+-v|(?:^|[-_])v-?pred", architecture):
        return "v_prediction"
    if re.search(r"stable-diffusion-v(?:1|2-512)", architecture):
        return "epsilon"
    return ""
