"""diffusers may be imported by two threads at once: by one that loads a model and by one that reads a request."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RACE = """
import sys, threading
import torch
sys.setswitchinterval(1e-5)
errors = []
def enter(statement):
    try:
        exec(statement)
    except BaseException as error:
        errors.append(repr(error))
statements = ["from diffusers import ModelMixin", "import MODULE"]
threads = [threading.Thread(target=enter, args=(one,)) for one in statements]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(errors)
"""


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.families.latent",
        "pipelines.families.stock",
        "pipelines.families.stock_video",
        "pipelines.models.cpu_upsampling",
    ],
)
def test_a_part_of_diffusers_is_imported_after_the_whole(module):
    ended = subprocess.run(
        [sys.executable, "-c", _RACE.replace("MODULE", module)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]", ended.stdout
