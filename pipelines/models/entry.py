"""What a line of the catalog says about a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import ModelFileError
from pipelines.core.types import Choice

__all__ = ["CatalogEntry", "CheckpointFile", "Quantized", "Source", "shorten_path"]


@dataclasses.dataclass(frozen=True)
class Source:
    """Describes a part of a model that comes from a repository of its own.

    Attributes:
        repository: "owner/name" on the Hugging Face hub.
        revision: a commit, or "main" where none could be confirmed.
        file: one weight file at the repository's root; "" for a folder of the usual form.
        subfolder: where in the repository the part stands.
        part_class: "library.Class" of a part that the model itself does not name.
    """

    repository: str
    revision: str = "main"
    file: str = ""
    subfolder: str = ""
    part_class: str = ""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Says how a model differs from the one it was made of.

    Attributes:
        base: key of that one.
        choice: the quantizer with its settings.
        file: the quantized network; None if it is quantized at each load.
    """

    base: str
    choice: Choice
    file: Path | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointFile:
    """Says what a single file of weights says of itself.

    Attributes:
        base: which version of its family it is, as `weights.kinds.FileKind` has it.
        lacks: parts of the model that are not in the file.
        prediction: "v_prediction" or "epsilon"; "" takes what models of its kind have.
        zero_snr: whether its last time step has no signal.
        edm: whether its network's time is EDM's.
        gguf: whether it is a GGUF file.
    """

    base: str
    lacks: tuple[str, ...] = ()
    prediction: str = ""
    zero_snr: bool = False
    edm: bool = False
    gguf: bool = False


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """Describes one line of the catalog.

    Attributes:
        key: stable name in requests, files and addresses.
        label: name on the screen.
        family: "sd", "sdxl", "sd3", "flux", or "stock" for any other diffusers pipeline.
        repository, revision: on the hub; "" for what is on this machine already.
        size_bytes: approximate download, where unverified added up from its parts; None where not even those are known.
        licence, licence_url: the licence's short name ("" where it could not be confirmed) and where to read it.
        kind: "image" or "video".
        pipeline: the pipeline's class in diffusers.
        gated: whether the hub asks to accept the licence and to log in.
        variant: the weights' variant to fetch, e.g. "fp16".
        defaults: names of `Request` fields to plain values, which `Request.parse` reads.
        num_frames: of a video; 0 for pictures.
        parts: parts that replace the repository's own, e.g. {"unet": Source(...)}.
        lora: a LoRA that belongs to this form of the model.
        notes: what a person should know, in plain words.
        unverified: the names of the fields above that nobody confirmed.
        confirmed: the names of fields that were confirmed elsewhere than at the repository itself, and where.
        problem: why it cannot be used, as a sentence; "" if it can.
        is_addition: whether it is no model and is chosen beside one (a VAE, a ControlNet); `problem` says where.
        path: the folder or checkpoint file on this machine; None for published models.
        file: of single files of weights; None for folders.
        quantized: of models whose network was quantized here; all other parts are those of the model it was made of.
    """

    key: str
    label: str
    family: str
    repository: str = ""
    revision: str = "main"
    size_bytes: int | None = None
    licence: str = ""
    licence_url: str = ""
    kind: str = "image"
    pipeline: str = ""
    gated: bool = False
    variant: str = ""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    num_frames: int = 0
    parts: Mapping[str, Source] = dataclasses.field(default_factory=dict, hash=False)
    lora: Source | None = None
    notes: str = ""
    unverified: tuple[str, ...] = ()
    confirmed: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    problem: str = ""
    is_addition: bool = False
    path: Path | None = None
    file: CheckpointFile | None = None
    quantized: Quantized | None = None

    @property
    def local(self) -> bool:
        """Whether it stands on this machine by itself, shipped or in the models folder."""
        return self.path is not None

    def require_path(self) -> Path:
        """Return where it stands on this machine.

        Raises:
            ModelFileError: it is a published model, which stands elsewhere.
        """
        if self.path is None:
            raise ModelFileError(f"{self.label} is no file or folder of this machine. Download it first.")
        return self.path

    def require_file(self) -> CheckpointFile:
        """Return what is known of a single file of weights.

        Raises:
            ModelFileError: it is a folder.
        """
        if self.file is None:
            raise ModelFileError(f"{self.label} is not a single file of weights.")
        return self.file


def shorten_path(path: Path) -> str:
    """Return a path for messages: from the person's home folder on, so that no message tells who they are."""
    try:
        return str(Path("~") / path.absolute().relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)
