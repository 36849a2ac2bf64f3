"""Conversions against the textbook's formulas."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.picture import check_size, fitted, resizing, rgb_from_jpeg, rgb_from_yuyv
from molmoact2_edge.errors import RobotError

pytest.importorskip("cv2")


def plain_rgb_from_yuyv(yuyv: np.ndarray) -> np.ndarray:
    """BT.601 with Y from 16 (less counts as 16) to 235, in float64: (H, W, 2) to (H, W, 3), not rounded."""
    luma = 255 / 219 * np.maximum(yuyv[..., 0].astype(float) - 16, 0)
    blue = np.repeat(yuyv[:, 0::2, 1], 2, axis=1).astype(float) - 128
    red = np.repeat(yuyv[:, 1::2, 1], 2, axis=1).astype(float) - 128
    channels = [
        luma + 1.596027 * red,
        luma - 0.391762 * blue - 0.812968 * red,
        luma + 2.017232 * blue,
    ]
    return np.clip(np.stack(channels, axis=-1), 0, 255)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 64), st.randoms(use_true_random=False))
def test_yuyv(height: int, pairs: int, padding: int, random: object) -> None:
    width = 2 * pairs
    draw = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    rows = draw.integers(0, 256, (height, width * 2 + padding), np.uint8)
    rgb = rgb_from_yuyv(rows.tobytes(), height, width, width * 2 + padding)
    assert rgb is not None
    expected = plain_rgb_from_yuyv(rows[:, : width * 2].reshape(height, width, 2))
    # Fixed-point coefficients, and a rounding.
    assert np.abs(rgb.astype(float) - expected).max() <= 2.0


def test_yuyv_that_is_cut_off() -> None:
    data = bytes(4 * 8 * 2)
    assert rgb_from_yuyv(data, 4, 8, 16) is not None
    assert rgb_from_yuyv(data[:-1], 4, 8, 16) is None
    assert rgb_from_yuyv(data[: len(data) // 2], 4, 8, 16) is None
    assert rgb_from_yuyv(b"", 4, 8, 16) is None


def jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


GRADIENT = np.stack(np.broadcast_arrays(np.arange(64) * 4, np.arange(48)[:, None] * 5, 128), axis=-1).astype(
    np.uint8
)


def test_jpeg_is_rgb_not_bgr() -> None:
    decoded = rgb_from_jpeg(jpeg(GRADIENT))
    assert decoded is not None
    # A quality of 95 costs a smooth gradient a few levels.
    assert np.abs(decoded.astype(int) - GRADIENT.astype(int)).max() <= 8


@given(st.floats(0.0, 0.999))
@settings(max_examples=50, deadline=None)
def test_a_jpeg_file_that_is_cut_off_is_no_picture(share: float) -> None:
    whole = jpeg(GRADIENT)
    assert rgb_from_jpeg(whole[: int(share * len(whole))]) is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_jpeg_file_are_no_picture(data: bytes) -> None:
    assert rgb_from_jpeg(data) is None
    assert rgb_from_jpeg(b"\xff\xd8" + data + b"\xff\xda" + data + b"\xff\xd9") is None


def test_zeros_behind_a_jpeg_file_do_not_matter() -> None:
    assert rgb_from_jpeg(jpeg(GRADIENT) + bytes(100)) is not None


def test_fitting_takes_the_mean_over_areas_and_gives_read_only_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    small = fitted(picture, Wanted(30, 40, 30.0, resize=True))
    mean = picture.reshape(30, 2, 40, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - mean).max() <= 0.5 + 1e-9
    assert not small.flags.writeable
    assert fitted(picture, Wanted(60, 80, 30.0)) is picture
    assert not picture.flags.writeable
    assert fitted(picture, Wanted(None, None, 30.0)).shape == (60, 80, 3)


def test_sizes_are_checked_before_they_are_fitted() -> None:
    check_size((480, 640), Wanted(480, 640, 30.0), "it")
    check_size((480, 640), Wanted(None, None, 30.0), "it")
    check_size((480, 640), Wanted(240, 320, 30.0, resize=True), "it")
    with pytest.raises(RobotError, match="it gives 640x480, wanted is 320x240; allow resizing"):
        check_size((480, 640), Wanted(240, 320, 30.0), "it")
    with pytest.raises(RobotError, match="gives only 640x480, which is less than the wanted 800x600"):
        check_size((480, 640), Wanted(600, 800, 30.0, resize=True), "it")


def test_resizing_is_said() -> None:
    assert resizing((480, 640), Wanted(480, 640, 30.0)) == ""
    assert resizing((480, 640), Wanted(240, 320, 30.0, resize=True)) == ", resized to 320x240"
    assert (
        resizing((720, 1280), Wanted(480, 640, 30.0, resize=True))
        == ", resized to 640x480 with another shape"
    )
