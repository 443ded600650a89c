"""Models out of single files: each part is made empty and filled tensor by tensor, so nothing is ever held twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipelines.core.cancelling import raise_if
from pipelines.core.errors import ModelFileError
from pipelines.models.empty_weights import WithoutNoise
from pipelines.models.files import read_json
from pipelines.models.stored_dtypes import StoredAs, keep_all
from pipelines.weights.checkpoint_names import Move, encoder_moves, network_moves, vae_moves
from pipelines.weights.files import Header
from pipelines.weights.gguf_files import read_weights_header
from pipelines.weights.gguf_reading import GgufReader
from pipelines.weights.kinds import ENCODERS, NETWORKS, VAE_PREFIXES, file_kind
from pipelines.weights.libraries import import_libraries
from pipelines.weights.network_kinds import bare_names
from pipelines.weights.reading import TensorReader, plain_names

if TYPE_CHECKING:
    from pipelines.weights.files import Tensor

__all__ = ["checkpoint_modules", "empty_module", "infer_config", "lone_module"]

_SD3_NORMS = "joint_blocks.0.x_block.attn.ln_q.weight"


class _Source(NamedTuple):
    """A file that is read, the dtype of what is made of it, what says whether to go on and what has another dtype."""

    path: Path
    header: Header
    dtype: torch.dtype
    cancelled: Callable[[], bool]
    stored_as: StoredAs


def checkpoint_modules(
    path: Path,
    config: Path,
    dtype: torch.dtype,
    classes: Mapping[str, type],
    cancelled: Callable[[], bool] = lambda: False,
    stored_as: StoredAs = keep_all,
) -> dict[str, torch.nn.Module]:
    """Load the networks that a single file holds, by part.

    Args:
        path: a safetensors or GGUF file of a whole model, or of its denoising network only.
        config: diffusers folder with the parts' configurations.
        dtype: of the weights.
        classes: of the wanted parts by name, which have weights and are in the file.
        cancelled: polled between tensors.
        stored_as: names the tensors that are kept in another dtype.

    Raises:
        ModelFileError: tensors are missing or of other shapes than the configuration says.
        Cancelled: the load was stopped.
    """
    gguf = path.suffix.lower() == ".gguf"
    header = read_weights_header(path)
    source = _Source(path, header, dtype, cancelled, stored_as)
    kind = file_kind(header.tensors, header.metadata)
    encoders = ENCODERS.get(kind.base) or ENCODERS.get(kind.family, {})
    modules: dict[str, torch.nn.Module] = {}
    for name, module_class in classes.items():
        if name in NETWORKS:
            modules[name] = (_load_gguf_network if gguf else _load_network)(source, module_class, config / name)
        elif name == "vae":
            prefix = next((one for one in VAE_PREFIXES if any(key.startswith(one) for key in header.tensors)), "vae.")
            modules[name] = _load_vae(source, module_class, config / name, prefix)
        elif name in encoders:
            modules[name] = _load_encoder(source, module_class, config / name, encoders[name][0])
    return modules


def lone_module(
    path: Path,
    module_class: type,
    config: Path,
    dtype: torch.dtype,
    name: str,
    cancelled: Callable[[], bool] = lambda: False,
    stored_as: StoredAs = keep_all,
) -> torch.nn.Module:
    """Return one part out of a file that holds only this part, in its authors' or in diffusers' names.

    Args:
        path: the file.
        module_class: the part's class.
        config: folder with its configuration.
        dtype: of the weights.
        name: of the part: "vae", "text_encoder", "unet", ...
        cancelled: polled between tensors.
        stored_as: names the tensors that are kept in another dtype.

    Raises:
        ModelFileError: tensors are missing or of other shapes than the configuration says.
        Cancelled: the load was stopped.
    """
    header = read_weights_header(path)
    source = _Source(path, header, dtype, cancelled, stored_as)
    if name in NETWORKS:
        return _load_network(source, module_class, config)
    if name == "vae":
        prefix = next((one for one in VAE_PREFIXES if any(key.startswith(one) for key in header.tensors)), "")
        return _load_vae(source, module_class, config, prefix)
    return _load_encoder(source, module_class, config, "")


def _load_network(source: _Source, module_class: type, config: Path) -> torch.nn.Module:
    prefix, bare = bare_names(source.header.tensors)
    plain = {**read_json(config / "config.json"), **infer_config(bare)}
    module = empty_module(module_class, config, plain)
    return _load_state(source, module, network_moves(plain_names(source.header), prefix, plain), config.name)


def _load_vae(source: _Source, module_class: type, config: Path, prefix: str) -> torch.nn.Module:
    plain = read_json(config / "config.json")
    moves = vae_moves(plain_names(source.header), prefix, plain)
    return _load_state(source, empty_module(module_class, config, plain), moves, config.name)


def _load_encoder(source: _Source, module_class: type, config: Path, prefix: str) -> torch.nn.Module:
    module = empty_module(module_class, config)
    moves = encoder_moves(plain_names(source.header), prefix, module.state_dict().keys())
    return _load_state(source, module, moves, config.name)


def empty_module(module_class: type[Any], config: Path, plain: Mapping[str, object] | None = None) -> torch.nn.Module:
    """Return a module whose weights take no memory yet.

    Args:
        module_class: its class, of diffusers or transformers.
        config: folder of its configuration.
        plain: the configuration, where it differs from the folder's.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(), WithoutNoise():
        if hasattr(module_class, "from_config") and not hasattr(module_class, "config_class"):
            return module_class.from_config(dict(read_json(config / "config.json") if plain is None else plain))
        return module_class(module_class.config_class.from_pretrained(str(config), local_files_only=True))


def infer_config(bare: Mapping[str, Tensor]) -> dict[str, object]:
    """Infer what the shapes of a FLUX.1 or SD3 network say of its configuration, whichever donor's that is.

    Args:
        bare: its tensors, in its authors' names without a prefix; of another network nothing is inferred.
    """
    blocks = {kind: _count_blocks(bare, kind) for kind in ("double_blocks", "single_blocks", "joint_blocks")}
    if blocks["double_blocks"]:
        return {
            "num_layers": blocks["double_blocks"],
            "num_single_layers": blocks["single_blocks"],
            "guidance_embeds": "guidance_in.in_layer.bias" in bare,
        }
    if not blocks["joint_blocks"] or "pos_embed" not in bare or "context_embedder.weight" not in bare:
        return {}
    count, width = blocks["joint_blocks"], bare["context_embedder.weight"].shape[0]
    settings = {
        "num_layers": count,
        "caption_projection_dim": width,
        "joint_attention_dim": bare["context_embedder.weight"].shape[1],
        "pos_embed_max_size": round(bare["pos_embed"].shape[1] ** 0.5),
        "dual_attention_layers": [
            block for block in range(count) if f"joint_blocks.{block}.x_block.attn2.qkv.weight" in bare
        ],
        "qk_norm": "rms_norm" if _SD3_NORMS in bare else None,
    }
    if width == 64 * count:
        # The published sizes: heads of 64, as many as layers.
        settings |= {"attention_head_dim": 64, "num_attention_heads": count}
    return settings


def _count_blocks(bare: Mapping[str, Tensor], kind: str) -> int:
    return 1 + max((int(name.split(".")[1]) for name in bare if name.startswith(f"{kind}.")), default=-1)


def _open_reader(path: Path, header: Header) -> TensorReader | GgufReader:
    return GgufReader(path, header) if path.suffix.lower() == ".gguf" else TensorReader(path, header)


def _load_state(source: _Source, module: torch.nn.Module, moves: Iterable[Move], part: str) -> torch.nn.Module:
    path, dtype = source.path, source.dtype
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    kept = source.stored_as(module)
    with _open_reader(path, source.header) as reader:
        for move in moves:
            raise_if(source.cancelled)
            if not all(target in shapes for target in move.targets):
                continue
            tensor = reader.read_as(move.source, dtype)
            pieces = _fit_pieces(tensor, move, [shapes[target] for target in move.targets])
            if pieces is None:
                raise ModelFileError(_explain_shape(path, type(module), move.source, tensor.shape, part))
            for target, piece in zip(move.targets, pieces, strict=True):
                state[target] = piece.to(kept.get(target, piece.dtype))
    projection = shapes.get("text_projection.weight")
    if projection and "text_projection.weight" not in state and projection[0] == projection[1]:
        # SD3's files leave CLIP-L's projection out: it changes nothing.
        state["text_projection.weight"] = torch.eye(projection[0], dtype=dtype)
    missing = sorted(set(shapes) - set(state))
    if missing:
        raise ModelFileError(_explain_missing(path, type(module), missing, len(shapes), part))
    module.load_state_dict(state, assign=True)
    if tie_weights := getattr(module, "tie_weights", None):
        tie_weights()
    return module.eval().requires_grad_(False)


def _fit_pieces(tensor: torch.Tensor, move: Move, shapes: list[torch.Size]) -> list[torch.Tensor] | None:
    """A file's tensor as the module's, None where the shapes do not fit."""
    if move.how == "both":
        return [tensor] * len(shapes) if all(tensor.shape == shape for shape in shapes) else None
    if move.how == "transpose":
        tensor = tensor.T.contiguous()
    if move.how == "swap":
        tensor = torch.cat(tuple(reversed(tensor.chunk(2))))
    if len(shapes) == 1:
        # A 1 x 1 convolution and a linear layer hold the same numbers.
        is_reshape = tensor.numel() == shapes[0].numel() and tensor.shape[:1] == shapes[0][:1]
        return [tensor.reshape(shapes[0])] if is_reshape or tensor.shape == shapes[0] else None
    rows = [shape[0] for shape in shapes]
    if tensor.shape[0] != sum(rows) or any(tensor.shape[1:] != shape[1:] for shape in shapes):
        return None
    return list(tensor.split(rows))


def _load_gguf_network(source: _Source, module_class: type[Any], config: Path) -> torch.nn.Module:
    """A GGUF file's network through diffusers, which unpacks a linear layer's weights whenever it is called.

    What is no linear layer's, or has rows that are not whole blocks, is unpacked here.
    """
    import_libraries()
    from diffusers import GGUFQuantizationConfig

    path, header, dtype = source.path, source.header, source.dtype
    prefix, bare = bare_names(header.tensors)
    plain = {**read_json(config / "config.json"), **infer_config(bare)}
    empty = empty_module(module_class, config, plain)
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    linear = {f"{name}.weight" for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear)}
    state: dict[str, Any] = {}
    with GgufReader(path, header) as reader:
        for move in network_moves(header.tensors, prefix, plain):
            raise_if(source.cancelled)
            if not all(target in shapes for target in move.targets):
                continue
            packed = reader.read_packed(move.source) if linear.issuperset(move.targets) else None
            if packed is not None:
                state.update(_split_packed(packed, move, [shapes[target] for target in move.targets]))
                continue
            tensor = reader.read_as(move.source, dtype)
            pieces = _fit_pieces(tensor, move, [shapes[target] for target in move.targets])
            if pieces is None:
                raise ModelFileError(_explain_shape(path, module_class, move.source, tensor.shape, config.name))
            state.update(zip(move.targets, pieces, strict=True))
    missing = sorted(set(shapes) - set(state))
    if missing:
        raise ModelFileError(_explain_missing(path, module_class, missing, len(shapes), config.name))
    settings = {name: value for name, value in plain.items() if not name.startswith("_")}
    module = module_class.from_single_file(
        state,
        config=str(config),
        local_files_only=True,
        torch_dtype=dtype,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        **settings,
    )
    return module.eval().requires_grad_(False)


def _explain_shape(path: Path, module_class: type, name: str, shape: torch.Size, part: str) -> str:
    return (
        f"{path.name} cannot be loaded as {module_class.__name__}: its {name[:80]} has the shape {tuple(shape)}, "
        f"which does not fit the configuration of its {part}. "
        "Choose the donor model of its own kind, or copy or download it again."
    )


def _explain_missing(path: Path, module_class: type, missing: list[str], count: int, part: str) -> str:
    return (
        f"{path.name} cannot be loaded as {module_class.__name__}: {len(missing)} of {count} tensors of its "
        f"{part} are missing, the first is {missing[0][:80]}. Copy or download it again."
    )


def _split_packed(packed: Any, move: Move, shapes: list[torch.Size]) -> dict[str, Any]:
    """Packed rows, which can be taken apart and put in another order like any others: blocks run along a row."""
    import_libraries()
    from diffusers.quantizers.gguf.utils import GGUFParameter

    plain, kind = packed.as_tensor(), packed.quant_type
    if move.how == "swap":
        plain = torch.cat(tuple(reversed(plain.chunk(2))))
    pieces = plain.split([shape[0] for shape in shapes])
    return {target: GGUFParameter(piece, quant_type=kind) for target, piece in zip(move.targets, pieces, strict=True)}
