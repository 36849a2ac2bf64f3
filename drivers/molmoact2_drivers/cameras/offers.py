"""Which of the formats, sizes and rates that a camera offers is taken: a pure choice, for every kind of device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_edge.errors import RobotError

_USUAL = (480, 640)
# Cameras say 29.97 where people say 30.
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Offer:
    """One format at one size."""

    pixel_format: str
    height: int
    width: int
    rates_hz: tuple[float, ...]
    """Empty: the device does not tell."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width


@dataclass(frozen=True)
class Choice:
    """What to ask the device for."""

    offer: Offer
    rate_hz: float
    """The slowest that is fast enough, else the fastest."""

    def __str__(self) -> str:
        return f"{self.offer.pixel_format} {self.offer.width}x{self.offer.height} at {self.rate_hz:g} Hz"


def choose(offers: Sequence[Offer], wanted: Wanted, usable: Sequence[str], what: str) -> Choice:
    """Choose among ``offers``; ``usable`` pixel formats, the one to prefer first.

    The size wanted, or, where frames may be resized, the smallest that is at least as high and as wide, before others
    one of the same shape. At that size the first format that is fast enough.

    Raises:
        RobotError: there is none; the message names what is offered.
    """
    known = [offer for offer in offers if offer.pixel_format in usable]
    if not known:
        formats = ", ".join(dict.fromkeys(offer.pixel_format for offer in offers)) or "nothing"
        raise RobotError(f"{what} offers {formats}; one of {', '.join(usable)} is needed")
    size = _size(known, wanted, what)
    at_size = sorted(
        (offer for offer in known if offer.size == size), key=lambda offer: usable.index(offer.pixel_format)
    )
    fast = [offer for offer in at_size if _fastest(offer, wanted) >= _enough(wanted)]
    offer = fast[0] if fast else max(at_size, key=lambda offer: _fastest(offer, wanted))
    rates = offer.rates_hz or (wanted.rate_hz,)
    return Choice(offer, min((rate for rate in rates if rate >= _enough(wanted)), default=max(rates)))


def listing(offers: Sequence[Offer]) -> str:
    """Say what is offered, for people: "YUYV 640x480, 1280x720; MJPG 640x480"."""
    sizes: dict[str, dict[str, None]] = {}
    for offer in offers:
        sizes.setdefault(offer.pixel_format, {})[f"{offer.width}x{offer.height}"] = None
    return "; ".join(f"{name} {', '.join(found)}" for name, found in sizes.items())


def _size(offers: Sequence[Offer], wanted: Wanted, what: str) -> tuple[int, int]:
    sizes = list(dict.fromkeys(offer.size for offer in offers))
    if wanted.size is None:
        return min(sizes, key=lambda size: (abs(size[0] - _USUAL[0]) + abs(size[1] - _USUAL[1]), size))
    if wanted.size in sizes:
        return wanted.size
    height, width = wanted.size
    if not wanted.resize:
        raise RobotError(
            f"{what} does not offer {width}x{height}, but {listing(offers)}; allow resizing, with resize: true, or "
            "change the configuration's height and width to what the policy was trained with"
        )
    larger = [size for size in sizes if size[0] >= height and size[1] >= width]
    if not larger:
        raise RobotError(f"{what} offers only less than {width}x{height}: {listing(offers)}")
    return min(larger, key=lambda size: (size[0] * width != size[1] * height, size[0] * size[1]))


def _enough(wanted: Wanted) -> float:
    return wanted.rate_hz * (1.0 - _RATE_TOLERANCE)


def _fastest(offer: Offer, wanted: Wanted) -> float:
    return max(offer.rates_hz, default=wanted.rate_hz)
