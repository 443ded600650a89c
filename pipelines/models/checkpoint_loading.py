"""Models out of single files: each part is made empty and filled tensor by tensor, so nothing is ever held twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.core.errors import ModelFileError
from pipelines.models.files import read_json
from pipelines.weights.checkpoint_names import Move, encoder_moves, network_moves, vae_moves
from pipelines.weights.files import Header, read_full_header
from pipelines.weights.gguf_files import read_gguf_header
from pipelines.weights.kinds import ENCODERS, VAE_PREFIXES, bare_names, file_kind
from pipelines.weights.reading import TensorReader, plain_names

__all__ = ["NETWORKS", "checkpoint_modules", "empty_module", "lone_module"]

NETWORKS = ("unet", "transformer")
_SD3_NORMS = "joint_blocks.0.x_block.attn.ln_q.weight"


def checkpoint_modules(
    path: Path, config: Path, dtype: torch.dtype, classes: Mapping[str, type], skipped: Collection[str]
) -> dict[str, torch.nn.Module]:
    """The networks that a single file holds, by part.

    Args:
        path: a safetensors or GGUF file of a whole model, or of its denoising network only.
        config: diffusers folder with the parts' configurations.
        dtype: of the weights.
        classes: of the parts by name, for those that have weights.
        skipped: parts that come from elsewhere.

    Raises:
        ModelFileError: tensors are missing or of other shapes than the configuration says.
    """
    gguf = path.suffix.lower() == ".gguf"
    header = read_gguf_header(path) if gguf else read_full_header(path)
    kind = file_kind(header.tensors, header.metadata)
    encoders = ENCODERS.get(kind.base) or ENCODERS.get(kind.family, {})
    modules: dict[str, torch.nn.Module] = {}
    for name, made in classes.items():
        if name in skipped:
            continue
        if name in NETWORKS:
            modules[name] = (_gguf_network if gguf else _network)(path, header, made, config / name, dtype)
        elif name == "vae":
            prefix = next((one for one in VAE_PREFIXES if any(key.startswith(one) for key in header.tensors)), "vae.")
            modules[name] = _vae(path, header, made, config / name, dtype, prefix)
        elif name in encoders:
            modules[name] = _encoder(path, header, made, config / name, dtype, encoders[name][0])
    return modules


def lone_module(path: Path, made: type, config: Path, dtype: torch.dtype, name: str) -> torch.nn.Module:
    """One part out of a file that holds only this part, in its authors' or in diffusers' names.

    Args:
        path: the file.
        made: the part's class.
        config: folder with its configuration.
        dtype: of the weights.
        name: of the part: "vae", "text_encoder", "unet", ...

    Raises:
        ModelFileError: tensors are missing or of other shapes than the configuration says.
    """
    header = read_full_header(path)
    if name in NETWORKS:
        return _network(path, header, made, config, dtype)
    if name == "vae":
        prefix = next((one for one in VAE_PREFIXES if any(key.startswith(one) for key in header.tensors)), "")
        return _vae(path, header, made, config, dtype, prefix)
    return _encoder(path, header, made, config, dtype, "")


def _network(path: Path, header: Header, made: type, config: Path, dtype: torch.dtype) -> torch.nn.Module:
    prefix, bare = bare_names(header.tensors)
    plain = {**read_json(config / "config.json"), **_shapes_say(bare)}
    module = empty_module(made, config, plain)
    return _filled(path, header, module, network_moves(plain_names(header), prefix, plain), dtype, config.name)


def _vae(path: Path, header: Header, made: type, config: Path, dtype: torch.dtype, prefix: str) -> torch.nn.Module:
    plain = read_json(config / "config.json")
    moves = vae_moves(plain_names(header), prefix, plain)
    return _filled(path, header, empty_module(made, config, plain), moves, dtype, config.name)


def _encoder(path: Path, header: Header, made: type, config: Path, dtype: torch.dtype, prefix: str) -> torch.nn.Module:
    module = empty_module(made, config)
    moves = encoder_moves(plain_names(header), prefix, module.state_dict().keys())
    return _filled(path, header, module, moves, dtype, config.name)


def empty_module(made: type, config: Path, plain: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """A module whose weights take no memory yet.

    Args:
        made: its class, of diffusers or transformers.
        config: folder of its configuration.
        plain: the configuration, where it differs from the folder's.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        if hasattr(made, "from_config") and not hasattr(made, "config_class"):
            return made.from_config(dict(read_json(config / "config.json") if plain is None else plain))
        return made(made.config_class.from_pretrained(str(config), local_files_only=True))


def _shapes_say(bare: Mapping[str, Any]) -> dict[str, Any]:
    """What the shapes of an original FLUX.1 or SD3 network say of its configuration, whichever donor's that is."""
    blocks = {kind: _count(bare, kind) for kind in ("double_blocks", "single_blocks", "joint_blocks")}
    if blocks["double_blocks"]:
        return {
            "num_layers": blocks["double_blocks"],
            "num_single_layers": blocks["single_blocks"],
            "guidance_embeds": "guidance_in.in_layer.bias" in bare,
        }
    if not blocks["joint_blocks"] or "pos_embed" not in bare or "context_embedder.weight" not in bare:
        return {}
    count, width = blocks["joint_blocks"], bare["context_embedder.weight"].shape[0]
    said = {
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
        said |= {"attention_head_dim": 64, "num_attention_heads": count}
    return said


def _count(bare: Mapping[str, Any], kind: str) -> int:
    return 1 + max((int(name.split(".")[1]) for name in bare if name.startswith(f"{kind}.")), default=-1)


def _filled(
    path: Path, header: Header, module: torch.nn.Module, moves: Iterable[Move], dtype: torch.dtype, part: str
) -> torch.nn.Module:
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    with TensorReader(path, header) as reader:
        for move in moves:
            if not all(target in wanted for target in move.targets):
                continue
            tensor = reader.read_as(move.source, dtype)
            pieces = _pieces(tensor, move, [wanted[target] for target in move.targets])
            if pieces is None:
                raise ModelFileError(
                    f"{path.name} cannot be loaded as {type(module).__name__}: its {move.source[:80]} has the shape "
                    f"{tuple(tensor.shape)}, which does not fit the configuration of its {part}. "
                    "Choose the donor model of its own kind, or copy or download it again."
                )
            state.update(zip(move.targets, pieces, strict=True))
    projection = wanted.get("text_projection.weight")
    if projection and "text_projection.weight" not in state and projection[0] == projection[1]:
        # SD3's files leave CLIP-L's projection out: it changes nothing.
        state["text_projection.weight"] = torch.eye(projection[0], dtype=dtype)
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise ModelFileError(
            f"{path.name} cannot be loaded as {type(module).__name__}: {len(missing)} of {len(wanted)} tensors of its "
            f"{part} are missing, the first is {missing[0][:80]}. Copy or download it again."
        )
    module.load_state_dict(state, assign=True)
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module.eval().requires_grad_(False)


def _pieces(tensor: torch.Tensor, move: Move, shapes: list[torch.Size]) -> list[torch.Tensor] | None:
    """A file's tensor as the module's, None where the shapes do not fit."""
    if move.how == "both":
        return [tensor] * len(shapes) if all(tensor.shape == shape for shape in shapes) else None
    if move.how == "transpose":
        tensor = tensor.T.contiguous()
    if move.how == "swap":
        tensor = torch.cat(tuple(reversed(tensor.chunk(2))))
    if len(shapes) == 1:
        # A 1 x 1 convolution and a linear layer hold the same numbers.
        same = tensor.numel() == shapes[0].numel() and tensor.shape[:1] == shapes[0][:1]
        return [tensor.reshape(shapes[0])] if same or tensor.shape == shapes[0] else None
    rows = [shape[0] for shape in shapes]
    if tensor.shape[0] != sum(rows) or any(tensor.shape[1:] != shape[1:] for shape in shapes):
        return None
    return list(tensor.split(rows))


def _gguf_network(path: Path, header: Header, made: type, config: Path, dtype: torch.dtype) -> torch.nn.Module:
    """A GGUF file's network through diffusers, which unpacks a layer's weights whenever it is called."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    prefix, bare = bare_names(header.tensors)
    plain = {**read_json(config / "config.json"), **_shapes_say(bare)}
    packed = load_gguf_checkpoint(str(path))
    shapes = {name: tensor.shape for name, tensor in empty_module(made, config, plain).state_dict().items()}
    state: dict[str, Any] = {}
    for move in network_moves(header.tensors, prefix, plain):
        if all(target in shapes for target in move.targets):
            state.update(_packed_pieces(packed.pop(move.source), move, [shapes[target] for target in move.targets]))
    missing = sorted(set(shapes) - set(state))
    if missing:
        raise ModelFileError(
            f"{path.name} cannot be loaded as {made.__name__}: {len(missing)} of {len(shapes)} tensors are missing, "
            f"the first is {missing[0][:80]}. Copy or download it again."
        )
    own = {name: value for name, value in plain.items() if not name.startswith("_")}
    module = made.from_single_file(
        state,
        config=str(config),
        local_files_only=True,
        torch_dtype=dtype,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        **own,
    )
    return module.eval().requires_grad_(False)


def _packed_pieces(packed: Any, move: Move, shapes: list[torch.Size]) -> dict[str, Any]:
    """Packed rows, which can be taken apart and put in another order like any others: blocks run along a row."""
    kind = getattr(packed, "quant_type", None)

    def again(rows: torch.Tensor) -> Any:
        if kind is None:
            return rows
        from diffusers.quantizers.gguf.utils import GGUFParameter

        return GGUFParameter(rows, quant_type=kind)

    plain = packed.as_tensor() if hasattr(packed, "as_tensor") else packed
    if move.how == "swap":
        plain = torch.cat(tuple(reversed(plain.chunk(2))))
    if len(shapes) == 1:
        one = plain.reshape(shapes[0]) if kind is None and plain.numel() == shapes[0].numel() else plain
        return {move.targets[0]: again(one)}
    pieces = plain.split([shape[0] for shape in shapes])
    return {target: again(piece) for target, piece in zip(move.targets, pieces, strict=True)}
