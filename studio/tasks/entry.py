"""How a task is asked for by programs and at the command line: the endpoint and the command derive from these."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsError

if TYPE_CHECKING:
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["MASK", "PICTURE", "Argument", "Command", "Endpoint", "build_prompt_argument"]

PICTURE, MASK = "a picture's file", "a mask's file"
"""In an example, what stands for a picture's file as base64, and for a mask's of its size."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """Describes a text that an endpoint asks for beside its settings.

    Attributes:
        name: of the argument.
        help: what it says, for the endpoint's description.
        place: names that lead to it in the task's values.
    """

    name: str
    help: str
    place: tuple[str, ...]


def build_prompt_argument(help: str, *place: str) -> Argument:
    """Build the prompt as an argument, in the `base` of the task's values unless another place is given."""
    return Argument("prompt", help, place or ("base", "prompt"))


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Describes a named endpoint: texts, then an object of settings.

    Attributes:
        name: without the slash.
        help: what it does, as a sentence.
        settings: what the settings hold, for the endpoint's description.
        arguments: the texts, in order.
        examples: small settings that are right, without fields of a `Request`: together they have every setting that
            the task knows, but for `unfit`. `PICTURE` and `MASK` stand for a picture's file. The measurements of
            reliability begin with these.
        unfit: settings that no example has, because the shipped model refuses them.
        overrules: fields of a `Request` that the task sets itself, whatever is asked for.
    """

    name: str
    help: str
    settings: str
    arguments: Sequence[Argument] = ()
    examples: Sequence[Mapping[str, Any]] = ({},)
    unfit: frozenset[str] = frozenset()
    overrules: frozenset[str] = frozenset()

    @property
    def description(self) -> str:
        """Return the docstring of its function, from which Gradio reads the help of each argument."""
        settings = Argument("settings", self.settings, ())
        return "\n".join(
            [self.help, "", "Args:", *(f"    {one.name}: {one.help}" for one in (*self.arguments, settings))]
        )

    def values(self, texts: Sequence[object], settings: object) -> dict[str, Any]:
        """Return the task's values from untrusted arguments.

        Args:
            texts: one for each of `arguments`.
            settings: must be an object, and so must be what a text's place leads through.

        Raises:
            SettingsError: something is no object.
        """
        values = _require_object(settings, "settings")
        for argument, text in zip(self.arguments, texts, strict=True):
            *way, last = argument.place
            inner = values
            for name in way:
                inner[name] = _require_object(inner.get(name, {}), name)
                inner = inner[name]
            inner[last] = text
        return values


def _require_object(value: object, name: str) -> dict[str, Any]:
    """A copy of an untrusted object."""
    if not isinstance(value, dict):
        raise SettingsError(f"{name} is {str(value)[:80]!r}, and must be an object of fields.")
    return dict(value)


class Command:
    """Describes a command of `python -m studio`: its flags, the task's values from them, and what is done with a
    finished job.

    Attributes:
        name: as it is typed.
        help: what it does, in a few words.
        out: what the file of `--out` is.
        suffixes: that this file may have; empty where the task itself says it.
        takes_request: whether it has the flags of a `Request`.
        needs_out: whether `--out` must be given.
        needs_prompt: whether a request's prompt must be given.
    """

    name: str
    help: str
    out: str
    suffixes: Sequence[str] = ()
    takes_request: bool = True
    needs_out: bool = True
    needs_prompt: bool = True

    def add_flags(self, parser: ArgumentParser) -> None:
        """Add the flags between those of a request and `--out`."""

    def values(self, flags: Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        """Return the task's values; files that the flags name are read.

        Args:
            flags: as they were typed.
            base: the fields of a `Request` that were given.

        Raises:
            SettingsError: a flag cannot be understood.
            OSError: a file cannot be read.
        """
        return {"base": dict(base)}

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[object]:
        """Write what was asked for, and give what is to be printed, a line each: usually the paths of the files.

        Raises:
            StoreError: the file's format cannot hold it.
            OSError: it cannot be written.
        """
        raise NotImplementedError
