"""Gradio's copy of a picture is never seen half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gradio import Image as ImageComponent
from gradio import processing_utils
from PIL import Image

from studio.server.picture_cache import write_pictures_whole


@pytest.fixture(autouse=True)
def whole_pictures(monkeypatch):
    monkeypatch.setattr(processing_utils, "save_pil_to_cache", processing_utils.save_pil_to_cache)
    write_pictures_whole()


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8))


def list_files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_the_file_is_where_gradio_puts_it_with_what_gradio_writes(tmp_path, picture):
    plain = processing_utils.save_pil_to_cache.__wrapped__(picture, str(tmp_path / "plain"), name="fox", format="png")
    ours = processing_utils.save_pil_to_cache(picture, str(tmp_path / "ours"), name="fox", format="png")
    assert Path(ours).relative_to(tmp_path / "ours") == Path(plain).relative_to(tmp_path / "plain")
    assert Path(ours).read_bytes() == Path(plain).read_bytes()
    assert list_files(tmp_path / "ours") == list_files(tmp_path / "plain")


def test_while_a_picture_is_written_again_the_earlier_file_stays_whole(tmp_path, picture, monkeypatch):
    component = ImageComponent(format="png")
    component.GRADIO_CACHE = str(tmp_path)
    path = Path(component.postprocess(picture).path)
    whole, seen, write = path.read_bytes(), [], Path.write_bytes

    def write_slowly(self, data):
        write(self, data[: len(data) // 2])
        seen.append(path.read_bytes())
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_slowly)
    assert Path(component.postprocess(picture).path) == path
    assert seen == [whole] and path.read_bytes() == whole


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, picture, monkeypatch):
    path = Path(processing_utils.save_pil_to_cache(picture, str(tmp_path)))
    whole, files, write = path.read_bytes(), list_files(tmp_path), Path.write_bytes

    def fill_the_disk(self, data):
        write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        processing_utils.save_pil_to_cache(picture, str(tmp_path))
    assert path.read_bytes() == whole and list_files(tmp_path) == files


def test_a_file_that_somebody_reads_and_that_cannot_be_replaced_is_kept(tmp_path, picture, monkeypatch):
    path = processing_utils.save_pil_to_cache(picture, str(tmp_path))

    def refuse(source, target):
        raise PermissionError(13, "in use")

    monkeypatch.setattr("os.replace", refuse)
    assert processing_utils.save_pil_to_cache(picture, str(tmp_path)) == path
    with pytest.raises(PermissionError):  # no file is there to be kept
        processing_utils.save_pil_to_cache(picture, str(tmp_path / "other"))


def test_further_calls_change_nothing():
    wrapped = processing_utils.save_pil_to_cache
    write_pictures_whole()
    assert processing_utils.save_pil_to_cache is wrapped
