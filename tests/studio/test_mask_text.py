"""The mask that the page draws is read back as it was, and nothing else is taken for one."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipelines.core.errors import PictureError
from studio.page.edit.mask_text import BOARD, decode_mask, encode_mask
from studio.reliability.probes import build_bomb

_PREFIX = "data:image/png;base64,"


def as_text(content: bytes) -> str:
    return _PREFIX + base64.b64encode(content).decode()


def save(picture: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (40, 80), (1024, 3)])
def test_a_mask_comes_back_as_it_was(size):
    mask = np.random.default_rng(0).random(size[::-1]) < 0.5
    mask[0, 0] = True
    assert np.array_equal(decode_mask(encode_mask(mask), size), mask)


def test_a_larger_mask_is_drawn_on_a_smaller_board_with_its_shape():
    mask = np.zeros((1500, 3000), bool)
    mask[300:900, 600:1800] = True
    with Image.open(io.BytesIO(base64.b64decode(encode_mask(mask)[len(_PREFIX) :]))) as board:
        assert board.size == (BOARD, BOARD // 2)
    found = decode_mask(encode_mask(mask), (3000, 1500))
    assert found.shape == mask.shape and (found != mask).mean() < 0.003  # a board's pixel has three of the mask's


def test_a_pixel_is_masked_if_a_quarter_of_it_is_and_none_drawn_is_no_mask():
    drawn = np.zeros((8, 8), np.uint8)
    drawn[0, :3], drawn[4:, 4] = 255, 255  # three and four of sixteen
    board = Image.new("RGBA", (8, 8), "red")
    board.putalpha(Image.fromarray(drawn))
    assert decode_mask(as_text(save(board)), (2, 2)).tolist() == [[False, False], [False, True]]
    assert encode_mask(None) == "" and decode_mask("", (8, 8)) is None and decode_mask(None, (8, 8)) is None
    assert decode_mask(encode_mask(np.zeros((8, 8), bool)), (8, 8)) is None


@pytest.mark.parametrize(
    "text",
    [
        "x",
        _PREFIX,
        _PREFIX + "?",
        as_text(b"no picture"),
        as_text(save(Image.new("RGBA", (8, 8)))[:45]),
        as_text(save(Image.new("RGB", (8, 8)), "JPEG")),
        as_text(save(Image.new("L", (BOARD + 1, BOARD)))),
        as_text(build_bomb(30_000)),
        _PREFIX + "A" * 5 * 2**20,
        ["data:image/png;base64,"],
        "/etc/passwd",
    ],
)
def test_what_the_page_never_draws_is_refused(text):
    with pytest.raises(PictureError, match="draw it again"):
        decode_mask(text, (8, 8))
