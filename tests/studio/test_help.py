"""The command line's help needs the tables' texts alone: it comes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core.errors import UnknownMethodError
from pipelines.second_passes import SECOND_PASSES
from studio.cli.methods import list_keys

ROOT = Path(__file__).resolve().parents[2]

# Prints what the help of every command, or the help of all, has imported of the libraries that take a second or more.
PROGRAM = """
import contextlib, io, sys
from studio.cli.main import main
from studio.tasks import TASKS

commands = [task.command.name for task in TASKS.values() if task.command]
for words in ([], *([name] for name in (*commands, "gallery", "models", "methods"))):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert out.getvalue().startswith("usage: python -m studio"), words
print(len(commands), *sorted({"torch", "numpy", "PIL", "diffusers", "transformers", "gradio"} & set(sys.modules)))
"""


def test_one_kinds_keys_are_listed_with_their_settings():
    lines = list_keys("second-pass")
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == list(SECOND_PASSES)
    assert "    factor=2.0 (1 to 4) How many times wider and higher." in lines
    with pytest.raises(UnknownMethodError, match="made_like"):
        list_keys("tables")


def test_the_help_of_every_command_imports_no_library_of_tensors_or_pictures():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["10"], "the commands' number, and no library"
