"""The number in a test picture survives what cameras do to pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from molmoact2_edge.errors import InputError
from molmoact2_emulators.camera_picture import NUMBERS, NumberedPicture, read_number

PICTURES = {size: NumberedPicture(*size) for size in ((640, 480), (160, 120), (112, 112), (40, 16))}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * NUMBERS), st.sampled_from(sorted(PICTURES)))
def test_the_number_is_read(number: int, size: tuple[int, int]) -> None:
    picture = PICTURES[size].draw(number)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    assert read_number(picture) == number % NUMBERS


@settings(max_examples=30, deadline=None)
@given(st.integers(0, NUMBERS - 1))
def test_the_number_is_read_after_jpeg_and_halving(number: int) -> None:
    picture = PICTURES[160, 120].draw(number)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    assert read_number(np.asarray(Image.open(file))) == number
    halved = picture.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    assert read_number(halved) == number


def test_pictures_move() -> None:
    first, second = (PICTURES[160, 120].draw(number) for number in (0, 1))
    assert (first != second).mean() > 0.3


def test_no_number_is_read_where_there_is_none() -> None:
    picture = PICTURES[160, 120].draw(5)
    assert read_number(np.full_like(picture, 128)) is None
    assert read_number(255 - picture) is None
    cell = 160 // 19
    picture[: 120 // 8, 10 * cell : 11 * cell] ^= 255  # one bit, which the parity shows
    assert read_number(picture) is None
    assert read_number(picture[:4, :10]) is None


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="at least 38x16"):
        NumberedPicture(36, 16)
