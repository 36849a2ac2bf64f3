"""What the commands ask of a bus with servos on it, whoever made them. Every call waits for the wire; nothing moves."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from molmoact2_drivers.calibration import ArmCalibration
from molmoact2_edge.arms.arm_servos import PROTOCOLS
from molmoact2_edge.errors import InputError


class FoundServo(Protocol):
    """A servo that answered."""

    @property
    def servo(self) -> int:
        """Its id."""

    @property
    def baud(self) -> int: ...
    @property
    def model_number(self) -> int: ...
    @property
    def model(self) -> str | None:
        """Its name; None for a number that the driver does not know."""

    @property
    def firmware(self) -> str: ...
    @property
    def errors(self) -> tuple[str, ...]:
        """What it complains about: overload, temperature and so on."""


class ServoBus(Protocol):
    """An open or closed serial bus. Errors are RobotError (device) or InputError (argument)."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def ping(self, servo: int) -> bool: ...
    def identify(self, servo: int) -> FoundServo | None: ...
    def scan(self, servos: Iterable[int] = ...) -> Sequence[FoundServo]: ...
    def read(self, servo: int, register: str) -> int: ...
    def read_many(self, servos: Sequence[int], register: str) -> dict[int, int]: ...
    def write_eeprom(self, servo: int, values: Mapping[str, int]) -> dict[str, int]: ...
    def set_torque(self, servos: Iterable[int], torque: Any) -> None: ...
    def set_id(self, servo: int, new: int) -> None: ...
    def set_baud(self, servo: int, baud: int) -> None: ...
    def write_calibration(self, calibration: ArmCalibration) -> None: ...
    def homing_offset(self, servo: int) -> int:
        """The offset that a servo applies to what it reads; its register's, where its mode heeds that."""

    def statistics(self) -> dict[str, Any]: ...


def make_bus(protocol: str, port: str, baud: int) -> ServoBus:
    """Return the bus of a protocol, not opened.

    Raises:
        InputError: there is no such protocol.
        MissingExtraError: what it needs is not installed.
    """
    bus: ServoBus = _driver(protocol).ServoBus(port, baud)
    return bus


def bauds(protocol: str) -> tuple[int, ...]:
    """Return the baud rates that servos of a protocol can have, the usual one first."""
    rates: tuple[int, ...] = tuple(_driver(protocol).BAUDS)
    return rates


def let_go(protocol: str, bus: ServoBus, servos: Iterable[int]) -> None:
    """Switch the torque of servos off: an arm that nobody holds sinks."""
    bus.set_torque(servos, _driver(protocol).Torque.OFF)


def _driver(protocol: str) -> Any:
    if protocol not in PROTOCOLS:
        raise InputError(f"no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    return importlib.import_module(f"molmoact2_drivers.{protocol}")
