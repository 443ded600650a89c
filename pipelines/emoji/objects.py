"""The pictured objects: their names and their pictures with transparency.

Two sources of one form. `shipped_catalog` reads the small set in `assets/data/emoji`;
`packaged_catalog` fetches the two npm packages it was taken from and takes many more.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pipelines.core.errors import TrainingError

__all__ = ["Catalog", "EmojiObject", "packaged_catalog", "shipped_catalog"]

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "data" / "emoji"
PICTURES = "@lobehub/fluent-emoji-3d@1.1.0"
LABELS = "emojibase-data@17.0.0"
SHIPPED_OBJECTS = 71  # of the 64 px model; the 128 px model has all of the shipped list
CACHE_VARIABLE = "STEPWISE_DATA_CACHE"
# emojibase groups that show things rather than people, components, symbols or flags
THING_GROUPS = (3, 4, 5, 6, 7)
FACE_GROUP = 0


@dataclass(frozen=True)
class EmojiObject:
    """Describes one object: `label` names it, each of `synonyms` names it alone, `tags` describe it."""

    label: str
    file: str
    synonyms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The label and the synonyms."""
        return (self.label, *self.synonyms)


@dataclass
class Catalog:
    """Holds a list of objects and the folder with their pictures; decoded pictures are kept.

    Raises: TrainingError when a picture is asked for that is not in the folder.
    """

    objects: tuple[EmojiObject, ...]
    folder: Path
    _by_name: dict[str, EmojiObject] = field(init=False, repr=False)
    _sprites: dict[tuple[str, int], Image.Image] = field(init=False, repr=False)
    _originals: dict[str, Image.Image] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_name = {name: item for item in self.objects for name in item.names}
        self._sprites = {}
        self._originals = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The objects' labels, in order."""
        return tuple(item.label for item in self.objects)

    def find(self, name: str) -> EmojiObject | None:
        """Find the object that `name` (a label or a synonym) names, or None."""
        return self._by_name.get(name)

    def described_by(self, words: list[str]) -> list[EmojiObject]:
        """Return the objects that every one of `words` names or describes."""
        return [item for item in self.objects if all(word in item.names or word in item.tags for word in words)]

    def sprite(self, label: str, pixels: int) -> Image.Image:
        """Return the object's RGBA picture, `pixels` wide and high. Do not change it: it is shared."""
        key = (label, pixels)
        if key not in self._sprites:
            picture = self._load_original(label).resize((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=3.0)
            picture.putalpha(picture.getchannel("A").point(_remove_ringing))
            self._sprites[key] = picture
        return self._sprites[key]

    def _load_original(self, label: str) -> Image.Image:
        if label not in self._originals:
            self._originals[label] = self._open_picture(label)
        return self._originals[label]

    def _open_picture(self, label: str) -> Image.Image:
        item = self._by_name.get(label)
        if item is None:
            raise TrainingError(f"No object is called {label!r}; the catalog has {self.labels}.")
        path = self.folder / item.file
        try:
            with Image.open(path) as picture:
                return picture.convert("RGBA")
        except OSError as error:
            raise TrainingError(f"The picture of {label!r} cannot be read: {error}.") from error


def shipped_catalog(count: int | None = SHIPPED_OBJECTS) -> Catalog:
    """List the objects that come with the project: nothing is fetched.

    Args: count: the first so many; None takes all. The default are those of the 64 px model.
    Raises: TrainingError when the files are missing.
    """
    return Catalog(_read_objects(SHIPPED / "objects.json")[:count], SHIPPED)


def packaged_catalog(count: int, cache: Path | None = None) -> Catalog:
    """List `count` objects from the npm packages: the shipped ones first, then by emojibase's order.

    Args:
        count: how many objects; at least the shipped ones.
        cache: where the packages are kept. Default: the folder named by STEPWISE_DATA_CACHE,
            else `stepwise` in the user's cache folder.
    Raises: TrainingError when npm is missing or fails, or the packages hold too few objects.
    """
    cache = cache or _find_default_cache()
    pictures = _fetch(PICTURES, cache) / "assets"
    labels = _fetch(LABELS, cache) / "en" / "data.json"
    shipped_objects = _read_objects(SHIPPED / "objects.json")
    objects = shipped_objects + _select_further(json.loads(labels.read_text("utf-8")), pictures, shipped_objects)
    if len(objects) < count:
        raise TrainingError(f"{count} objects were asked for, the packages have {len(objects)}.")
    return Catalog(objects[:count], pictures)


def _remove_ringing(alpha: int) -> int:
    """The resampling leaves specks of one or two gray levels where nothing or everything is."""
    return 0 if alpha < 4 else 255 if alpha > 251 else alpha


def _read_objects(path: Path) -> tuple[EmojiObject, ...]:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TrainingError(f"The list of objects cannot be read: {error}.") from error
    return tuple(EmojiObject(row["label"], row["file"], tuple(row["synonyms"]), tuple(row["tags"])) for row in rows)


def _select_further(rows: list, pictures: Path, shipped_objects: tuple) -> tuple[EmojiObject, ...]:
    """Objects from emojibase's rows; a tag that only one object has becomes its synonym."""
    used_names = {name for item in shipped_objects for name in item.names}
    candidates = [
        row
        for row in sorted(rows, key=lambda row: row.get("order", 0))
        if row.get("group") in (*THING_GROUPS, FACE_GROUP) and row["label"] not in used_names
    ]
    owners: dict[str, int] = {}
    for tag in (tag for row in candidates for tag in row.get("tags", [])):
        owners[tag] = owners.get(tag, 0) + 1
    reserved = (
        used_names | {row["label"].lower() for row in candidates} | {t for item in shipped_objects for t in item.tags}
    )
    objects = []
    for row in candidates:
        file = _find_picture(row["hexcode"].lower(), pictures)
        if file is None or any(mark in row["label"] for mark in ":,") or row["label"].lower() in used_names:
            continue
        tags = [tag for tag in row.get("tags", []) if tag.isascii() and tag.lower() not in reserved]
        unique_tags = [tag for tag in tags if owners[tag] == 1 and len(tag) > 3 and tag not in used_names]
        common_tags = tuple(tag for tag in tags if tag not in unique_tags)
        used_names |= {row["label"].lower(), *unique_tags}
        objects.append(EmojiObject(row["label"].lower(), file, tuple(unique_tags[:2]), common_tags))
    return tuple(objects)


def _find_picture(hexcode: str, pictures: Path) -> str | None:
    for name in (f"{hexcode}.webp", f"{hexcode}-fe0f.webp"):
        if (pictures / name).is_file():
            return name
    return None


def _find_default_cache() -> Path:
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stepwise"


def _fetch(package: str, cache: Path) -> Path:
    """Fetch a package with `npm pack` unless the cache has it; return its unpacked folder."""
    folder = cache / package.strip("@").replace("/", "-").replace("@", "-")
    package_folder = folder / "package"
    if package_folder.is_dir():
        return package_folder
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except FileNotFoundError as error:
        raise TrainingError(f"npm is needed to fetch {package}: install Node.js.") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip()[-300:]
        raise TrainingError(f"npm could not fetch {package}: {detail}") from error
    archive = next(folder.glob("*.tgz"))
    unpacking = folder / "unpacking"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacking, filter="data")
    os.replace(unpacking / "package", package_folder)
    archive.unlink()
    return package_folder
