"""Making one part of a model from its files, and giving its memory back."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.core.cancelling import Cancelled, raise_if
from pipelines.core.errors import BusyError, ModelError, ModelFileError
from pipelines.models.files import PartFiles
from pipelines.models.shipped_configurations import load_light_part
from pipelines.models.steering_entry import ADAPTER, CONTROLNET
from pipelines.models.stored_dtypes import StoredAs, keep_all
from pipelines.weights.libraries import import_libraries
from pipelines.weights.t2i_adapter_levels import ADAPTERS

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

__all__ = ["free_part", "load_part", "loaded_bytes", "new_scheduler", "part_class", "pipeline_class"]

log = logging.getLogger(__name__)

OUT_OF_MEMORY = "The device's memory ran out while the model was loaded. Unload another model and try again."

ONE_AT_A_TIME = threading.Lock()
"""diffusers and transformers change torch's default dtype and torch.nn while they load: for the whole process."""


def part_class(library: str, class_name: str) -> type[Any]:
    """Return a class that a model_index.json names, out of diffusers and transformers only.

    Raises:
        ModelFileError: it is in neither: Stepwise never runs code that comes with a model.
    """
    import_libraries()
    part_type = None
    if library in {"diffusers", "transformers"}:
        part_type = getattr(importlib.import_module(library), class_name, None)
    elif library.isidentifier():
        from diffusers import pipelines

        # A name like "stable_diffusion" stands for the folder of that pipeline inside diffusers.
        try:
            part_type = getattr(importlib.import_module(f"{pipelines.__name__}.{library}"), class_name, None)
        except ModuleNotFoundError:
            part_type = None
    if not isinstance(part_type, type):
        raise ModelFileError(
            f"The model needs {library[:60]}.{class_name[:60]}, which is neither in diffusers nor in "
            "transformers; code that comes with a model is never run. Choose another model."
        )
    return part_type


def pipeline_class(class_name: str) -> type:
    """Return a pipeline of diffusers by its class name.

    Raises:
        ModelFileError: diffusers has no such pipeline.
    """
    import_libraries()
    import diffusers

    pipeline_type = getattr(diffusers, class_name, None)
    if not isinstance(pipeline_type, type) or not issubclass(pipeline_type, diffusers.DiffusionPipeline):
        raise ModelFileError(
            f"The model runs through {class_name[:60]}, which this version of diffusers does not "
            "have. Update diffusers, or choose another model."
        )
    return pipeline_type


def load_part(
    part: PartFiles,
    dtype: str,
    device: str,
    cancelled: Callable[[], bool] = lambda: False,
    stored_as: StoredAs = keep_all,
) -> Any:
    """Load the part, ready to be used on the device, in evaluation mode and without gradients.

    Args:
        part: its files.
        dtype: of its floating-point weights, e.g. "float16".
        device: "cpu", "cuda", ...
        cancelled: polled before and between tensors.
        stored_as: names the tensors that are kept in another dtype.

    Raises:
        ModelFileError: the files do not make this class, or tensors are missing.
        BusyError: the device's memory ran out.
        Cancelled: the load was stopped.
    """
    import torch

    part_type = part_class(part.library, part.class_name)
    with ONE_AT_A_TIME:
        try:
            raise_if(cancelled)
            if part.light:
                return load_light_part(part_type, part.folder)
            load = _load_from_state if part.single or part.within else _load_from_folder
            module = load(part, part_type, getattr(torch, dtype), cancelled, stored_as)
            return module.to(device).eval().requires_grad_(False)
        except (ModelError, Cancelled):
            raise
        except torch.OutOfMemoryError as error:
            raise BusyError(OUT_OF_MEMORY) from error
        except Exception as error:
            model = part.weights[0].name if part.within else part.folder.parent.name
            raise _explain_failure(part.name, model, part.class_name, error) from error


def _explain_failure(name: str, model: str, class_name: str, error: Exception) -> ModelFileError:
    log.warning("loading %s of %s failed", name, model, exc_info=error)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return ModelFileError(
        f"'{name}' of the model {model} cannot be loaded as {class_name} ({first}). Copy or download the model again."
    )


def _load_from_folder(
    part: PartFiles, part_type: type[Any], dtype: torch.dtype, cancelled: Callable[[], bool], stored_as: StoredAs
) -> torch.nn.Module:
    import_libraries()
    from transformers.utils import logging as transformers_logging

    from pipelines.models.folder_loading import load_by_name

    filled = load_by_name(part, part_type, dtype, cancelled, stored_as)
    if filled is not None:
        return filled
    # Progress goes to the person who asked, not to the terminal.
    transformers_logging.disable_progress_bar()
    name = "torch_dtype" if part.library == "diffusers" else "dtype"
    module, report = part_type.from_pretrained(
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


def _load_from_state(
    part: PartFiles, part_type: type, dtype: torch.dtype, cancelled: Callable[[], bool], stored_as: StoredAs
) -> torch.nn.Module:
    from pipelines.models.checkpoint_loading import checkpoint_modules, lone_module
    from pipelines.models.steering_loading import load_steering_file

    if part.within:
        config = part.folder.parent
        return checkpoint_modules(part.weights[0], config, dtype, {part.name: part_type}, cancelled, stored_as)[
            part.name
        ]
    if part.name in (CONTROLNET, ADAPTER, *ADAPTERS):
        return load_steering_file(part, dtype, cancelled)
    return lone_module(part.weights[0], part_type, part.folder, dtype, part.name, cancelled, stored_as)


def _require_all(part: PartFiles, missing: Iterable[object]) -> None:
    names = sorted(str(name) for name in missing)
    if names:
        raise ModelFileError(
            f"'{part.name}' of the model {part.folder.parent.name} does not fit its configuration: "
            f"{len(names)} tensors are missing or too many, the first is {names[0][:80]}. "
            "Copy or download the model again."
        )


def new_scheduler(part: PartFiles, config: Mapping[str, object]) -> SchedulerMixin:
    """Return a scheduler of one's own, for it changes while it is used."""
    return part_class(part.library, part.class_name).from_config(config)


def loaded_bytes(loaded: object) -> int:
    """Count the memory of a part, or of a dict of parts: parameters and buffers; 0 for what holds no tensors."""
    import torch

    from pipelines.quantizers.stored import stored_bytes

    if isinstance(loaded, dict):
        return sum(loaded_bytes(part) for part in loaded.values())
    return stored_bytes(loaded) if isinstance(loaded, torch.nn.Module) else 0


def _free_tensors(module: torch.nn.Module) -> None:
    """Free all tensors of a module; some libraries' cannot be moved, and PyTorch's packed ones are no parameters."""
    try:
        module.to("meta")
    except (RuntimeError, NotImplementedError, ValueError):
        for part in module.modules():
            part._parameters.clear()
            part._buffers.clear()
    for part in module.modules():
        part.__dict__.pop("_packed_params", None)
        part._modules.pop("_packed_params", None)


def free_part(loaded: object) -> None:
    """Give a part's memory back even if somebody still holds the object; using it then raises."""
    import torch

    from pipelines.core.devices import release_unused_memory  # late: listing models imports no PyTorch

    modules = loaded.values() if isinstance(loaded, dict) else [loaded]
    for module in modules:
        if isinstance(module, torch.nn.Module):
            _free_tensors(module)
    for kind, is_here in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        if is_here.is_available():
            release_unused_memory(torch.device(kind))
