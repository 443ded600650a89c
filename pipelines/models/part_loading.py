"""Making one part of a model from its files, and giving its memory back."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import BusyError, ModelError, ModelFileError
from pipelines.models.files import PartFiles, read_json

__all__ = ["free_part", "load_checkpoint", "load_part", "loaded_bytes", "new_scheduler", "part_class", "pipeline_class"]

log = logging.getLogger(__name__)

OUT_OF_MEMORY = "The device's memory ran out while the model was loaded. Release another model and try again."

ONE_AT_A_TIME = threading.Lock()
"""diffusers and transformers change torch's default dtype and torch.nn while they load: for the whole process."""


def part_class(library: str, class_name: str) -> type:
    """A class that a model_index.json names, out of diffusers and transformers only.

    Raises:
        ModelFileError: it is in neither: Stepwise never runs code that comes with a model.
    """
    found = None
    if library in {"diffusers", "transformers"}:
        found = getattr(importlib.import_module(library), class_name, None)
    elif library.isidentifier():
        from diffusers import pipelines

        # A name like "stable_diffusion" stands for the folder of that pipeline inside diffusers.
        try:
            found = getattr(importlib.import_module(f"{pipelines.__name__}.{library}"), class_name, None)
        except ModuleNotFoundError:
            found = None
    if not isinstance(found, type):
        raise ModelFileError(
            f"The model needs {library[:60]}.{class_name[:60]}, which is neither in diffusers nor in "
            "transformers; code that comes with a model is never run. Choose another model."
        )
    return found


def pipeline_class(class_name: str) -> type:
    """A pipeline of diffusers by its class name.

    Raises:
        ModelFileError: diffusers has no such pipeline.
    """
    import diffusers

    found = getattr(diffusers, class_name, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise ModelFileError(
            f"The model runs through {class_name[:60]}, which this version of diffusers does not "
            "have. Update diffusers, or choose another model."
        )
    return found


def load_part(part: PartFiles, dtype: str, device: str) -> Any:
    """The part, ready to be used on the device, in evaluation mode and without gradients.

    Args:
        part: its files.
        dtype: of its floating-point weights, e.g. "float16".
        device: "cpu", "cuda", ...

    Raises:
        ModelFileError: the files do not make this class, or tensors are missing.
        BusyError: the device's memory ran out.
    """
    import torch

    made = part_class(part.library, part.class_name)
    with ONE_AT_A_TIME:
        try:
            if part.light:
                return made.from_pretrained(str(part.folder), local_files_only=True)
            load = _from_state if part.single else _from_folder
            return load(part, made, getattr(torch, dtype)).to(device).eval().requires_grad_(False)
        except ModelError:
            raise
        except torch.OutOfMemoryError as error:
            raise BusyError(OUT_OF_MEMORY) from error
        except Exception as error:
            raise _unusable(part.name, part.folder.parent.name, part.class_name, error) from error


def _unusable(name: str, model: str, class_name: str, error: Exception) -> ModelFileError:
    log.warning("loading %s of %s failed", name, model, exc_info=error)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return ModelFileError(
        f"'{name}' of the model {model} cannot be loaded as {class_name} ({first}). Copy or download the model again."
    )


def _from_folder(part: PartFiles, made: type, dtype: Any) -> Any:
    from transformers.utils import logging as transformers_logging

    # Progress is told to the person who asked, not to the terminal.
    transformers_logging.disable_progress_bar()
    name = "torch_dtype" if part.library == "diffusers" else "dtype"
    module, report = made.from_pretrained(
        str(part.folder),
        local_files_only=True,
        use_safetensors=True,
        variant=part.variant or None,
        output_loading_info=True,
        **{name: dtype},
    )
    # transformers also lists tensors that it computes itself; those that the file lacks start as noise.
    _require_all(part, report.get("missing_keys") or ())
    return module


def _from_state(part: PartFiles, made: type, dtype: Any) -> Any:
    from safetensors.torch import load_file

    module = made.from_config(read_json(part.folder / "config.json"))
    missing, unexpected = module.load_state_dict(load_file(str(part.weights[0])), strict=False)
    _require_all(part, [*missing, *unexpected])
    return module.to(dtype)


def _require_all(part: PartFiles, missing: Any) -> None:
    names = sorted(str(name) for name in missing)
    if names:
        raise ModelFileError(
            f"'{part.name}' of the model {part.folder.parent.name} does not fit its configuration: "
            f"{len(names)} tensors are missing or too many, the first is {names[0][:80]}. "
            "Copy or download the model again."
        )


def load_checkpoint(path: Any, pipeline: str, config: Any, dtype: str, device: str) -> dict[str, Any]:
    """All parts of a checkpoint file by name.

    Args:
        path: the .safetensors file, already checked.
        pipeline: class name of the pipeline it belongs to.
        config: folder with the configurations and tokenizers of that pipeline.
        dtype, device: of the parts.

    Raises:
        ModelFileError: the file does not make this pipeline.
        BusyError: the device's memory ran out.
    """
    import torch

    made = pipeline_class(pipeline)
    with ONE_AT_A_TIME:
        try:
            pipe = made.from_single_file(
                str(path), config=str(config), local_files_only=True, torch_dtype=getattr(torch, dtype)
            )
            pipe.to(device)
        except torch.OutOfMemoryError as error:
            raise BusyError(OUT_OF_MEMORY) from error
        except Exception as error:
            raise _unusable("the checkpoint", path.name, pipeline, error) from error
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return dict(pipe.components)


def new_scheduler(part: PartFiles, config: Mapping[str, Any]) -> Any:
    """A scheduler of one's own, for it changes while it is used."""
    return part_class(part.library, part.class_name).from_config(config)


def loaded_bytes(loaded: Any) -> int:
    """Memory of a part, or of a dict of parts: parameters and buffers; 0 for what holds no tensors."""
    import torch

    from pipelines.quantizers.stored import stored_bytes

    if isinstance(loaded, dict):
        return sum(loaded_bytes(part) for part in loaded.values())
    return stored_bytes(loaded) if isinstance(loaded, torch.nn.Module) else 0


def _let_go(module: Any) -> None:
    """Free all tensors of a module; some libraries' cannot be moved, and PyTorch's packed ones are no parameters."""
    try:
        module.to("meta")
    except (RuntimeError, NotImplementedError):
        for part in module.modules():
            part._parameters.clear()
            part._buffers.clear()
    for part in module.modules():
        part.__dict__.pop("_packed_params", None)
        part._modules.pop("_packed_params", None)


def free_part(loaded: Any) -> None:
    """Give a part's memory back even if somebody still holds the object; using it then raises."""
    import torch

    modules = loaded.values() if isinstance(loaded, dict) else [loaded]
    for module in modules:
        if isinstance(module, torch.nn.Module):
            _let_go(module)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
