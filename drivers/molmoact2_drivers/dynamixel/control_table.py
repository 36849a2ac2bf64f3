"""Control tables of Dynamixel servos: read from the files that the vendor ships with its library, by model number.

Registers go by LeRobot's names in lower case: ``Present Position`` is ``present_position``.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from molmoact2_edge.errors import InputError, MissingExtraError, RobotError

TICKS_PER_TURN = 4096
EEPROM_END = 64
"""Registers below keep their value without power, and take a new one only while torque is off."""
NEW_LAYOUT_FIRMWARE = 52
"""From it on some models have their indirect data elsewhere; the vendor has a second file for them."""

_PACKAGE = "dynamixel_easy_sdk"  # a part of the distribution dynamixel-sdk
_SIGNED = frozenset(
    {
        "homing_offset",
        "bus_watchdog",
        "goal_pwm",
        "goal_current",
        "goal_velocity",
        "goal_position",
        "present_pwm",
        "present_current",
        "present_load",
        "present_velocity",
        "present_position",
        "velocity_trajectory",
        "position_trajectory",
    }
)
# The vendor's files give currents in counts; its manual gives amperes for each count.
_AMPERES_PER_COUNT = {"xl330": 0.001, "xc330": 0.001}
_AMPERES_PER_COUNT_ELSE = 0.00269


@dataclass(frozen=True)
class Register:
    """One value: its place, size in bytes, and whether it is in two's complement."""

    name: str
    address: int
    size: int

    @property
    def eeprom(self) -> bool:
        """Whether it outlasts a loss of power."""
        return self.address < EEPROM_END

    @property
    def signed(self) -> bool:
        """Whether it may be negative."""
        return self.name in _SIGNED

    def decode(self, data: bytes) -> int:
        """The number in its bytes."""
        return int.from_bytes(data, "little", signed=self.signed)

    def encode(self, value: int) -> bytes:
        """Its bytes.

        Raises:
            InputError: the value does not fit.
        """
        try:
            return int(value).to_bytes(self.size, "little", signed=self.signed)
        except OverflowError as error:
            raise InputError(f"{self.name} has {self.size} bytes, which cannot hold {value}") from error


@dataclass(frozen=True)
class ControlTable:
    """The registers of one model."""

    model: str
    """As in the shops, in lower case: ``xl430-w250``."""
    model_number: int
    registers: Mapping[str, Register]
    velocity_unit: float
    """Turns a second for each count of velocity."""

    def __getitem__(self, name: str) -> Register:
        register = self.registers.get(name)
        if register is None:
            raise InputError(
                f"{self.model} has no register {name!r}; it has {', '.join(sorted(self.registers))}"
            )
        return register

    def __contains__(self, name: str) -> bool:
        return name in self.registers

    @property
    def amperes_per_count(self) -> float | None:
        """Of the present current; None: the model measures none."""
        if "present_current" not in self.registers:
            return None
        return _AMPERES_PER_COUNT.get(self.model.partition("-")[0], _AMPERES_PER_COUNT_ELSE)

    def x_series(self) -> bool:
        """Whether it is laid out as the servos that this driver moves."""
        layout = {"torque_enable": 64, "bus_watchdog": 98, "goal_position": 116, "present_position": 132}
        return all(name in self and self[name].address == address for name, address in layout.items())


@functools.cache
def _folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "control tables of Dynamixel servos come with dynamixel-sdk 4.1 or newer, which is not installed: "
            "pip install 'molmoact2-edge[arms]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "control_table"


@functools.cache
def model_files() -> Mapping[int, str]:
    """Return the name of each model's file, by model number.

    Raises:
        MissingExtraError: the vendor's library is not installed.
    """
    lines = (_folder() / "dynamixel.model").read_text(encoding="utf-8").splitlines()[1:]
    fields = [line.split("\t") for line in lines if line.strip()]
    return {int(number): name.strip() for number, name, *_ in fields}


def model_name(model_number: int) -> str | None:
    """Return the model's name, None for a number that the vendor's files do not have."""
    name = model_files().get(model_number)
    return None if name is None else name.removesuffix(".model").replace("_", "-")


@functools.cache
def control_table(model_number: int, firmware: int) -> ControlTable:
    """Return the table of a model with that firmware.

    Raises:
        MissingExtraError: the vendor's library is not installed.
        RobotError: its files have no such model.
    """
    name = model_files().get(model_number)
    if name is None:
        raise RobotError(
            f"a servo says that its model is number {model_number}, of which dynamixel-sdk has no control table; "
            "a newer release of it may have one"
        )
    path = _folder() / name
    newer = path.with_name(f"{path.stem}_fw{NEW_LAYOUT_FIRMWARE}.model")
    if firmware >= NEW_LAYOUT_FIRMWARE and newer.is_file():
        path = newer
    sections = _sections(path)
    registers = {}
    for address, size, title, *_ in sections["control table"]:
        register = title.strip().lower().replace(" ", "_")
        registers[register] = Register(register, int(address), int(size))
    radians = next(
        (float(unit) for title, unit, *_ in sections.get("unit info", []) if title == "Present Velocity"), 0.0
    )
    return ControlTable(str(model_name(model_number)), model_number, registers, radians / (2.0 * math.pi))


def _sections(path: Path) -> dict[str, list[list[str]]]:
    """The parts of a file: a title in brackets, a line of headings, lines of fields."""
    sections: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("["):
            current = sections.setdefault(text.strip("[]"), [])
            heading = True
        elif text:
            if not heading:
                current.append(text.split("\t"))
            heading = False
    return sections
