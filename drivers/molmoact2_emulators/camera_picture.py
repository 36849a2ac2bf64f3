"""A test picture that moves, with its number drawn in it so that a program can read it after YUYV, JPEG and halving."""

from __future__ import annotations

import numpy as np

from molmoact2_edge.errors import InputError
from molmoact2_emulators.camera_frames import Picture

NUMBERS = 1 << 16
"""Numbers go round at this."""

_BITS = 16
# White, black, the bits from the highest, and their parity.
_CELLS = 2 + _BITS + 1
_HALF = 128
_CONTRAST = 64
_SMALLEST_CELL = 2


class NumberedPicture:
    """Draws pictures: a gradient that wanders to the right, a square that wanders across it, the number in cells."""

    def __init__(self, width: int, height: int) -> None:
        """Raises:
        InputError: too small for the number to be readable.
        """
        if width < _CELLS * _SMALLEST_CELL or height < 16:
            raise InputError(
                f"a test picture is at least {_CELLS * _SMALLEST_CELL}x16 pixels, got {width}x{height}"
            )
        self._width, self._height = width, height
        rows, columns = np.mgrid[0:height, 0:width]
        hue = np.stack([columns / width, rows / height, 1.0 - columns / width], axis=-1)
        # A whole wave along each row, so that the picture can wander round its edge.
        self._background = np.round(127.5 - 112.5 * np.cos(2.0 * np.pi * hue)).astype(np.uint8)
        self._side = max(4, height // 6)

    def draw(self, number: int) -> Picture:
        """Return the picture of ``number``, (height, width, 3) uint8 RGB."""
        picture = np.roll(self._background, 3 * number, axis=1)
        top = self._height // 4
        left = 5 * number % (self._width - self._side)
        down = top + 3 * number % max(1, self._height - top - self._side)
        picture[down : down + self._side, left : left + self._side] = (230, 40, 40)
        cell = self._width // _CELLS
        strip = picture[: self._height // 8]
        strip[:] = 0
        for place, bit in enumerate(_cells(number)):
            strip[:, place * cell : (place + 1) * cell] = 255 * bit
        return picture


def read_number(picture: Picture) -> int | None:
    """Return the number in a picture of that kind, (height, width, 3); None where there is none, or a damaged one."""
    height, width = picture.shape[:2]
    cell = width // _CELLS
    if cell == 0 or height < 8:
        return None
    middle = picture[height // 16, cell // 2 : _CELLS * cell : cell].astype(np.float64).mean(axis=-1)
    if np.abs(middle - _HALF).min() < _CONTRAST:
        return None
    bits = [int(value > _HALF) for value in middle]
    number = sum(bit << (_BITS - 1 - place) for place, bit in enumerate(bits[2 : 2 + _BITS]))
    return number if bits == _cells(number) else None


def _cells(number: int) -> list[int]:
    bits = [number % NUMBERS >> place & 1 for place in reversed(range(_BITS))]
    return [1, 0, *bits, sum(bits) % 2]
