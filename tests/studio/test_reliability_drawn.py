"""What is drawn and never used does not pile up, and a drawing is no way in for anything else."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipelines.core.errors import PictureError
from studio.page.edit.drawn import Drawings, check_drawing
from studio.page.edit.mask_editor import BOARD, mask_editor
from studio.reliability.probes import build_bomb


def png(side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", (side, side)).save(stream, "PNG")
    return stream.getvalue()


FIELDS = {"type": "layer", "index": "0", "id": "abc"}


def test_the_oldest_drawings_are_forgotten():
    drawn = Drawings(3)
    for name in "abcad":
        drawn[name] = name
    assert [*drawn] == ["c", "a", "d"]


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ({**FIELDS, "index": str(10**12)}, [png()]),
        ({**FIELDS, "index": "-1"}, [png()]),
        ({**FIELDS, "type": "x"}, [png()]),
        ({**FIELDS, "id": "x" * 65}, [png()]),
        ({}, [png()]),
        (FIELDS, []),
        (FIELDS, [png(), png()]),
        (FIELDS, [b"no picture"]),
        (FIELDS, [build_bomb(3000)]),
        (FIELDS, [b"\0" * (8 * 2**20 + 1)]),
    ],
)
def test_what_the_page_never_sends_is_refused(fields, files):
    with pytest.raises(PictureError):
        check_drawing(fields, files, 4 * BOARD**2)


def test_the_editor_takes_a_drawing_and_keeps_a_few():
    from fastapi import HTTPException
    from gradio.data_classes import DataWithFiles

    editor = mask_editor("mask")
    assert (
        editor.get_config()["canvas_size"] and editor.get_block_name() == "imageeditor"
    )  # the page makes it as Gradio's own
    for number in range(100):
        editor.accept_blobs(DataWithFiles(data={**FIELDS, "id": str(number)}, files=[("blob", png())]))
    assert len(editor.blob_storage) == 64
    with pytest.raises(HTTPException, match="could not be read"):
        editor.accept_blobs(DataWithFiles(data={**FIELDS, "index": "999999999999"}, files=[("blob", png())]))
    assert getattr(editor.accept_blobs, "_is_server_fn", False)
    value = editor.preprocess(editor.data_model(id="99"))
    assert value["layers"][0].shape == (8, 8, 4) and "99" not in editor.blob_storage
