"""From what a camera sends to RGB of the wanted size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_edge.errors import MissingExtraError, RobotError

Picture = npt.NDArray[np.uint8]

_JPEG_BEGIN = b"\xff\xd8"
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"


def load_opencv() -> Any:
    """Return the module ``cv2``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(
            f"cameras need OpenCV, which is not installed: pip install molmoact2-edge[cameras] ({error})"
        ) from error
    return cv2


def rgb_from_yuyv(data: bytes | memoryview, height: int, width: int, row_bytes: int) -> Picture | None:
    """Return (height, width, 3) RGB from YUYV (BT.601, Y from 16 to 235); None where rows are missing."""
    pixels = np.frombuffer(data, np.uint8)
    if pixels.size < height * row_bytes:
        return None
    rows = pixels[: height * row_bytes].reshape(height, row_bytes)[:, : width * 2]
    cv2 = load_opencv()
    rgb: Picture = cv2.cvtColor(np.ascontiguousarray(rows).reshape(height, width, 2), cv2.COLOR_YUV2RGB_YUYV)
    return rgb


def rgb_from_jpeg(data: bytes | memoryview) -> Picture | None:
    """Return (H, W, 3) RGB; None where the file is cut off or no JPEG file.

    Decoders fill what is missing with grey and say nothing, so that the end is looked for first.
    """
    whole = bytes(data)
    scan = whole.find(_JPEG_SCAN)
    if not whole.startswith(_JPEG_BEGIN) or scan < 0 or whole.find(_JPEG_END, scan) < 0:
        return None
    cv2 = load_opencv()
    try:
        bgr = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if bgr is None:
        return None
    rgb: Picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def check_size(size: tuple[int, int], wanted: Wanted, what: str) -> None:
    """Check a source that has one size only.

    Raises:
        RobotError: frames of ``size``, (height, width), are not what is wanted, nor may be made to be.
    """
    if wanted.size is None or size == wanted.size:
        return
    height, width = wanted.size
    if not wanted.resize:
        raise RobotError(
            f"{what} gives {size[1]}x{size[0]}, wanted is {width}x{height}; allow resizing, with resize: true, or "
            "change the configuration's height and width to what the policy was trained with"
        )
    if size[0] < height or size[1] < width:
        raise RobotError(
            f"{what} gives only {size[1]}x{size[0]}, which is less than the wanted {width}x{height}"
        )


def fitted(picture: Picture, wanted: Wanted) -> Picture:
    """Return the picture in the wanted size, resized by the mean over areas where it has another, and read-only."""
    if wanted.size is not None and picture.shape[:2] != wanted.size:
        cv2 = load_opencv()
        height, width = wanted.size
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    picture.flags.writeable = False
    return picture


def resizing(size: tuple[int, int], wanted: Wanted) -> str:
    """Say what :func:`fitted` does to pictures of ``size``: "", or ", resized to 640x480"."""
    if wanted.size is None or size == wanted.size:
        return ""
    height, width = wanted.size
    squeezed = "" if size[0] * width == size[1] * height else " with another shape"
    return f", resized to {width}x{height}{squeezed}"
