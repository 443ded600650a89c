"""Parts have the same name exactly when their files are equal, byte for byte."""

from __future__ import annotations

import os

import pytest

from pipelines.weights.part_identity import SAMPLE_BYTES, SAMPLES, PartIdentities

SIZE = 1_000_000
BETWEEN = (SIZE - SAMPLE_BYTES) // (SAMPLES - 1) // 2 + SAMPLE_BYTES
"""A byte that no sample reads."""


@pytest.fixture
def part(tmp_path):
    """Writes a part's two files into a folder, with one byte of the weights changed at a place."""

    def write(name, changed=None, config="{}"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        data = bytearray(SIZE)
        if changed is not None:
            data[changed] = 1
        (folder / "weights").write_bytes(data)
        (folder / "config").write_text(config)
        return [folder / "config", folder / "weights"]

    return write


def test_equal_files_share_a_name(part):
    identities = PartIdentities()
    assert identities.name(part("a")) == identities.name(part("b")) == identities.name(part("c"))


@pytest.mark.parametrize("place", [0, SIZE // 2, BETWEEN, SIZE - 1])
def test_one_other_byte_is_another_part(part, place):
    identities = PartIdentities()
    first, other, same = part("a"), part("b", changed=place), part("c", changed=place)
    names = [identities.name(files) for files in (first, other, same)]
    assert names[0] != names[1] == names[2]


def test_another_configuration_is_another_part(part):
    identities = PartIdentities()
    assert identities.name(part("a")) != identities.name(part("b", config="{ }"))


def test_a_changed_file_has_another_name_and_no_copy_of_it_has_the_old_one(part):
    identities = PartIdentities()
    before = identities.name(part("a"))
    files = part("a", changed=BETWEEN)
    os.utime(files[1], ns=(1, 1))
    after, copy = identities.name(files), identities.name(part("b", changed=BETWEEN))
    assert before != after == copy


def test_the_common_case_reads_samples_only(part, monkeypatch):
    import pipelines.weights.part_identity as module

    monkeypatch.setattr(module, "_hash_file", lambda path: pytest.fail("read in full"))
    identities = PartIdentities()
    parts = [part("a"), part("b", changed=0), part("c", config="[]")]
    names = [identities.name(files) for files in parts]
    assert len(set(names)) == 3
    assert [identities.name(files) for files in parts] == names
