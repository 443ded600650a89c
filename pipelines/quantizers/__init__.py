"""The table of quantizers: how a network's weights are kept in fewer bits."""

from __future__ import annotations

import functools
from typing import Any

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import Method, Table
from pipelines.core.types import Choice, Traits
from pipelines.quantizers.base import Quantizer, StorableQuantizer
from pipelines.quantizers.bitsandbytes import BitsAndBytes, fits_bitsandbytes
from pipelines.quantizers.calibrated import Calibrated, CalibratedQuantizer, CalibratedSettings
from pipelines.quantizers.compiled import CompiledSettings, CompiledW8A8, fits_compiled
from pipelines.quantizers.dynamic import Dynamic, fits_dynamic
from pipelines.quantizers.fp8 import Fp8
from pipelines.quantizers.gguf import Gguf, GgufSettings, fits_gguf
from pipelines.quantizers.int4 import Int4, Int4Settings
from pipelines.quantizers.int8 import Int8
from pipelines.quantizers.layerwise import Layerwise
from pipelines.quantizers.machine import Machine, this_machine
from pipelines.quantizers.nf4 import Nf4, Nf4Settings
from pipelines.quantizers.onednn import OneDnn, fits_onednn
from pipelines.quantizers.quanto import Quanto, fits_quanto
from pipelines.quantizers.recipes import RECIPES
from pipelines.quantizers.sdnq import Sdnq, fits_sdnq
from pipelines.quantizers.torchao import TorchAo, fits_torchao, fits_torchao_fp8, fits_torchao_int4

__all__ = [
    "QUANTIZERS",
    "CalibratedQuantizer",
    "Machine",
    "Quantizer",
    "StorableQuantizer",
    "build_quantizer",
    "require_fit",
    "require_runs",
    "this_machine",
]

_AO, _QUANTO, _SDNQ = "github.com/pytorch/ao", "github.com/huggingface/optimum-quanto", "github.com/Disty0/sdnq"
_BNB = "github.com/bitsandbytes-foundation/bitsandbytes"


def _bind_form(maker: Any, form: str) -> Any:
    return functools.partial(maker, form)


QUANTIZERS = Table(
    "quantizer",
    [
        Method(
            "int8",
            "int8",
            Int8,
            paper="Jacob et al., arXiv:1712.05877, section 2.1",
            help="Weights of linear layers and convolutions in eight bits, a scale a channel: a quarter of the bytes.",
        ),
        Method(
            "fp8",
            "fp8",
            Fp8,
            paper="Micikevicius et al., FP8 formats, arXiv:2209.05433",
            help="Eight-bit floating point (e4m3), a scale a channel: for weights that spread over many magnitudes.",
        ),
        Method(
            "int4",
            "int4",
            Int4,
            Int4Settings,
            paper="Frantar et al., GPTQ, arXiv:2210.17323, the baseline",
            help="Four bits, two weights to a byte, a scale and an offset a group: about a seventh of the bytes.",
        ),
        Method(
            "nf4",
            "NF4",
            Nf4,
            Nf4Settings,
            paper="Dettmers et al., QLoRA, arXiv:2305.14314",
            help="Four bits on sixteen levels made for normally distributed weights, a scale a block.",
        ),
        Method(
            "calibrated",
            "Calibrated",
            Calibrated,
            CalibratedSettings,
            paper="Frantar et al., GPTQ, arXiv:2210.17323; Dong et al., HAWQ-V2, arXiv:1911.03852",
            help="Two to eight bits, more where the error shows, rounded by what the layers see in runs of the "
            "model: the best picture for its bytes; takes minutes.",
        ),
        Method(
            "dynamic",
            "Dynamic int8",
            Dynamic,
            fit=fits_dynamic,
            paper="PyTorch, torch.ao.quantization",
            help="Weights and inputs of linear layers in eight bits: makes transformers faster on a CPU.",
        ),
        Method(
            "onednn_w8a8",
            "W8A8",
            OneDnn,
            fit=fits_onednn,
            paper="oneDNN, through torch.ops.onednn; Jacob et al., arXiv:1712.05877",
            help="Weights and inputs of linear layers and convolutions in eight bits, multiplied as such: the "
            "fastest on a CPU with VNNI. In memory twice, as codes and as oneDNN arranges them.",
        ),
        Method(
            "compiled_w8a8",
            "W8A8, compiled",
            CompiledW8A8,
            CompiledSettings,
            fit=fits_compiled,
            paper="PyTorch, X86 inductor quantizer; Jacob et al., arXiv:1712.05877",
            help="W8A8 with inputs' ranges from runs of the model, in a network that PyTorch compiles: faster than "
            "either alone. Each new size is compiled first, half a minute or more; needs a C++ compiler.",
        ),
        Method(
            "layerwise",
            "Layerwise fp8",
            Layerwise,
            paper="diffusers, layerwise casting",
            help="Weights cast to e4m3 as they are, without scales, and back in each call.",
        ),
        Method(
            "torchao_int8",
            "torchao int8",
            _bind_form(TorchAo, "int8"),
            fit=fits_torchao,
            paper=_AO,
            help="Eight-bit weights of linear layers.",
        ),
        Method(
            "torchao_int4",
            "torchao int4",
            _bind_form(TorchAo, "int4"),
            fit=fits_torchao_int4,
            paper=_AO,
            help="Four-bit weights of linear layers, with kernels for NVIDIA GPUs.",
        ),
        Method(
            "torchao_fp8",
            "torchao fp8",
            _bind_form(TorchAo, "fp8"),
            fit=fits_torchao_fp8,
            paper=_AO,
            help="Weights and inputs of linear layers in eight-bit floating point, multiplied as such.",
        ),
        Method(
            "quanto_int8",
            "quanto int8",
            _bind_form(Quanto, "qint8"),
            fit=fits_quanto,
            paper=_QUANTO,
            help="Eight-bit weights of linear layers and convolutions.",
        ),
        Method(
            "quanto_int4",
            "quanto int4",
            _bind_form(Quanto, "qint4"),
            fit=fits_quanto,
            paper=_QUANTO,
            help="Four-bit weights of linear layers and convolutions, by group.",
        ),
        Method(
            "quanto_fp8",
            "quanto fp8",
            _bind_form(Quanto, "qfloat8"),
            fit=fits_quanto,
            paper=_QUANTO,
            help="Weights of linear layers and convolutions in eight-bit floating point.",
        ),
        Method(
            "sdnq_int8",
            "SDNQ int8",
            _bind_form(Sdnq, "int8"),
            fit=fits_sdnq,
            paper=_SDNQ,
            help="Eight-bit weights of linear layers and convolutions.",
        ),
        Method(
            "sdnq_uint4",
            "SDNQ uint4",
            _bind_form(Sdnq, "uint4"),
            fit=fits_sdnq,
            paper=_SDNQ,
            help="Four-bit weights of linear layers and convolutions, in small groups.",
        ),
        Method(
            "gguf_q8_0",
            "GGUF Q8_0",
            _bind_form(Gguf, "Q8_0"),
            GgufSettings,
            fit=fits_gguf,
            paper="llama.cpp; diffusers",
            help="Weights in blocks of 32, eight bits each.",
        ),
        Method(
            "gguf_q4_0",
            "GGUF Q4_0",
            _bind_form(Gguf, "Q4_0"),
            GgufSettings,
            fit=fits_gguf,
            paper="llama.cpp; diffusers",
            help="Weights in blocks of 32, four bits each.",
        ),
        Method(
            "bnb_int8",
            "bitsandbytes int8",
            _bind_form(BitsAndBytes, "int8"),
            fit=fits_bitsandbytes,
            paper=f"arXiv:2208.07339; {_BNB}",
            help="LLM.int8: weights and inputs of linear layers in eight bits.",
        ),
        Method(
            "bnb_nf4",
            "bitsandbytes NF4",
            _bind_form(BitsAndBytes, "nf4"),
            fit=fits_bitsandbytes,
            paper=f"arXiv:2305.14314; {_BNB}",
            help="Linear layers in NF4.",
        ),
        *RECIPES,
    ],
)


def require_runs(choice: Choice, machine: Machine) -> Method:
    """Return the table's line for a choice that this machine can run.

    Raises:
        UnknownMethodError: there is none of this key.
        MethodFitError: it cannot run here, and why.
    """
    method = QUANTIZERS[choice.key]
    if reason := method.fit(machine):
        raise MethodFitError(f"{method.label} cannot run here: {reason}.")
    return method


def require_fit(choice: Choice, traits: Traits | None) -> None:
    """Refuse a method that is for other networks than a model's, as far as its traits tell.

    Args:
        choice: of the table.
        traits: of the model; None where they are unknown, which is left to the quantizing.

    Raises:
        MethodFitError: it does not fit, and why.
    """
    method = QUANTIZERS[choice.key]
    if traits is None or not isinstance(method.make, type) or not issubclass(method.make, Quantizer):
        return
    if reason := method.make.refuses_model(traits):
        raise MethodFitError(f"{method.label} does not fit this model: {reason}.")


def build_quantizer(choice: Choice, machine: Machine) -> Quantizer:
    """Build the quantizer of a choice.

    Raises:
        SettingsError: there is no such method or setting, or a value is out of range.
        MethodFitError: it cannot run here, and why.
    """
    return require_runs(choice, machine).build(choice.settings)
