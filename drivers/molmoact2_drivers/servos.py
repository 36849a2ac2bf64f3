"""What the drivers of servo lines share, whatever the servos' protocol."""

from __future__ import annotations

from dataclasses import dataclass

from molmoact2_edge.errors import InputError


@dataclass(frozen=True)
class FoundServo:
    """A servo that answered."""

    servo: int
    """Its id."""
    baud: int
    model_number: int
    model: str | None
    """None: a model that the driver does not know."""
    firmware: str
    errors: tuple[str, ...] = ()
    """Names of the errors that it reports, as its driver calls them."""


def require_line(port: str, baud: int) -> None:
    """Do nothing where a line can be opened with these.

    Raises:
        InputError: no path, or no baud rate.
    """
    if not port:
        raise InputError("which port? Give its path; `molmoact2-edge find-port` finds it")
    if baud <= 0:
        raise InputError(f"a baud rate is above 0, got {baud}")
