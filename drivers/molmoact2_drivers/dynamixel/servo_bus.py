"""Dynamixel servos one by one: found, read, written, set up. What commands do before an arm runs.

Times are generous and everything is tried again: on this side nobody has a deadline.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.dynamixel.control_table import ControlTable, Register, control_table, model_name
from molmoact2_drivers.servos import FoundServo, require_line
from molmoact2_edge._core import dynamixel as core
from molmoact2_edge.errors import InputError, RobotError

BAUD_CODES = {
    9_600: 0,
    57_600: 1,
    115_200: 2,
    1_000_000: 3,
    2_000_000: 4,
    3_000_000: 5,
    4_000_000: 6,
    4_500_000: 7,
}
BAUDS = (1_000_000, 57_600, 2_000_000, 3_000_000, 4_000_000, 115_200, 9_600, 4_500_000)
"""Baud rates of the servos, that of an arm first, that of a new servo second."""
DEFAULT_BAUD = 1_000_000
SLACK_S = 0.004
"""What a USB adapter and the scheduler may add to an answer's time on the wire, in the loop."""

POSITION_MODE = 3
EXTENDED_POSITION_MODE = 4
SINGLE_TURN_OFFSET_MAX = 1024
"""A servo in POSITION_MODE ignores a larger homing offset, says its manual, without refusing it."""

ID_MAX = 252
_BROADCAST = 254
_PING, _READ, _WRITE, _REBOOT = 0x01, 0x02, 0x03, 0x08
_TIMEOUT_S = 0.05
_TRIES = 5
_PING_TIMEOUT_S = 0.02
_PING_TRIES = 3
_ONE_BY_ONE = 16  # so few ids are asked one after the other
_PING_ROUNDS = 2
_PING_REQUEST_BYTES, _PING_ANSWER_BYTES = 10, 14
_PING_SLOT_S = 0.003
_REBOOT_S = 3.0
_ALERT = 0x80

_REFUSALS = {
    1: "the servo could not carry it out",
    2: "it does not know the instruction",
    3: "it received a damaged packet",
    4: "the value is out of range",
    5: "the length is wrong",
    6: "the value is beyond a limit set in the servo",
    7: "the register cannot be written now; below 64 that needs torque off",
}

HARDWARE_ERRORS = {
    0x01: ("voltage", "the supply voltage is outside the servo's limits"),
    0x04: ("temperature", "it is too hot"),
    0x08: ("encoder", "its position sensor fails"),
    0x10: ("electrical_shock", "its electronics are damaged or its supply fails"),
    0x20: ("overload", "it was loaded beyond its strength for too long"),
}
"""Name and meaning of each bit of the register hardware_error_status."""


class Torque(enum.IntEnum):
    """What a servo's motor does; the values of its register."""

    OFF = 0
    ON = 1


def error_names(bits: int) -> tuple[str, ...]:
    """Return what the bits of a hardware error say."""
    return tuple(name for bit, (name, _) in HARDWARE_ERRORS.items() if bits & bit)


class ServoBus:
    """A line of Dynamixel servos with protocol 2.0. Exchanges wait for those of a loop on the same line."""

    def __init__(self, port: str, baud: int = DEFAULT_BAUD) -> None:
        """Opens nothing.

        Raises:
            InputError: no path, or no baud rate.
        """
        require_line(port, baud)
        self.port = port
        self.baud = baud
        self.core = core.Bus(port, baud, SLACK_S)
        self._tables: dict[int, ControlTable] = {}

    @property
    def is_open(self) -> bool:
        """Whether the device is there: False once it was found to be unplugged."""
        return self.core.is_open

    def open(self) -> None:
        """Open the line for this process alone.

        Raises:
            RobotError: no such device, no permission, or in use.
        """
        error = self.core.open()
        if error:
            raise RobotError(error)

    def close(self) -> None:
        """Close it; servos keep doing what they do, unless their watchdogs are armed."""
        self.core.close()

    def __enter__(self) -> ServoBus:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- who is there ---

    def ping(self, servo: int) -> bool:
        """Whether a servo answers to that id."""
        return self._identity(servo, _TIMEOUT_S, _TRIES) is not None

    def identify(self, servo: int) -> FoundServo | None:
        """Return what a servo says about itself; None where none answers."""
        wire_s = (_PING_REQUEST_BYTES + _PING_ANSWER_BYTES) * 10.0 / self.baud
        return self._identify(servo, _PING_TIMEOUT_S + wire_s, _PING_TRIES)

    def scan(self, servos: Iterable[int] = range(ID_MAX + 1)) -> list[FoundServo]:
        """Return those of these ids that answer, lowest first. Many are asked all at once, in two seconds or less."""
        wanted = sorted(set(servos))
        if len(wanted) > _ONE_BY_ONE:
            wanted = sorted(self._everybody(wanted[-1]) & set(wanted))
            found = [
                self._identify(servo, _TIMEOUT_S, _TRIES) for servo in wanted
            ]  # they are there: with patience
        else:
            found = [self.identify(servo) for servo in wanted]
        if not self.core.is_open:
            raise RobotError(f"{self.port} was unplugged; plug it in again")
        return [servo for servo in found if servo is not None]

    def _everybody(self, highest: int) -> set[int]:
        # Each answers in the place that its id gives it, as the vendor's library waits for them.
        window_s = (highest + 1) * (_PING_ANSWER_BYTES * 10.0 / self.baud + _PING_SLOT_S) + _TIMEOUT_S
        found: set[int] = set()
        for _ in range(_PING_ROUNDS):
            _, answers = self.core.broadcast_ping(window_s)
            found |= {servo for servo, _, _ in answers}
        return found

    def table(self, servo: int) -> ControlTable:
        """Return the control table of a servo, which it is asked for once.

        Raises:
            RobotError: it does not answer, or has a model without a table.
        """
        table = self._tables.get(servo)
        if table is None:
            identity = self._identity(servo, _TIMEOUT_S, _TRIES)
            if identity is None:
                raise self._silent(servo, "a ping")
            table = self._tables[servo] = control_table(*identity)
        return table

    def _identity(self, servo: int, timeout_s: float, tries: int) -> tuple[int, int] | None:
        for _ in range(tries):
            status, _, data = self.core.exchange(_servo(servo), _PING, b"", 3, timeout_s)
            if status == "ok":
                return int.from_bytes(data[:2], "little"), data[2]
        return None

    def _identify(self, servo: int, timeout_s: float, tries: int) -> FoundServo | None:
        identity = self._identity(servo, timeout_s, tries)
        return None if identity is None else self._found(servo, *identity)

    def _found(self, servo: int, model_number: int, firmware: int) -> FoundServo:
        name = model_name(model_number)
        errors: tuple[str, ...] = ()
        if name is not None:
            # Two servos with one id answer a ping as one, and garble the rest: it is still somebody who was found.
            with contextlib.suppress(RobotError):
                errors = error_names(self.read(servo, "hardware_error_status"))
        return FoundServo(servo, self.baud, model_number, name, str(firmware), errors)

    # --- registers ---

    def read(self, servo: int, register: str) -> int:
        """Return a register's value, signed where the register is.

        Raises:
            InputError: the servo has no such register.
            RobotError: it does not answer, or refuses.
        """
        where = self.table(servo)[register]
        return where.decode(self.read_bytes(servo, where.address, where.size))

    def read_bytes(self, servo: int, address: int, size: int) -> bytes:
        """Return what lies at an address.

        Raises:
            RobotError: the servo does not answer, or refuses.
        """
        request = address.to_bytes(2, "little") + size.to_bytes(2, "little")
        return self._ask(servo, _READ, request, size, f"a read at {address}")

    def read_many(self, servos: Sequence[int], register: str) -> dict[int, int]:
        """Return a register of several servos, asked for at once.

        Raises:
            InputError: one of them has no such register.
            RobotError: one of them does not answer.
        """
        where = {servo: self.table(servo)[register] for servo in servos}
        if len(set(where.values())) != 1:
            return {servo: self.read(servo, register) for servo in servos}
        one: Register = next(iter(where.values()))
        for _ in range(_TRIES):
            status, data = self.core.read_blocks(
                "sync", [(servo, one.address) for servo in servos], one.size, _TIMEOUT_S * len(servos)
            )
            if status == "ok":
                return {
                    servo: one.decode(value)
                    for servo, value in zip(servos, data, strict=True)
                    if value is not None
                }
        # Those behind a servo that is missing say nothing either: one by one it shows who it is.
        return {servo: self.read(servo, register) for servo in servos}

    def write(self, servo: int, register: str, value: int) -> None:
        """Write a register; the servo says whether it took it.

        Raises:
            InputError: the servo has no such register, or it cannot hold the value.
            RobotError: it does not answer, or refuses.
        """
        where = self.table(servo)[register]
        self.write_bytes(servo, where.address, where.encode(value), f"{value} for {register}")

    def write_bytes(self, servo: int, address: int, data: bytes, what: str) -> None:
        """Write at an address; ``what`` names it in the error.

        Raises:
            RobotError: the servo does not answer, or refuses.
        """
        self._ask(servo, _WRITE, address.to_bytes(2, "little") + data, 0, what)

    def write_checked(self, servo: int, register: str, value: int) -> None:
        """Write a register and read it back.

        Raises:
            InputError: like `write`.
            RobotError: the servo does not answer, refuses, or holds another value afterwards.
        """
        self.write(servo, register, value)
        held = self.read(servo, register)
        if held != value:
            errors = self.read(servo, "hardware_error_status")
            why = f": {'; '.join(_meanings(errors))}; `recover` reboots it" if errors else ""
            raise RobotError(
                f"{self.port}: servo {servo} holds {held} in {register} after {value} was written{why}"
            )

    def write_eeprom(self, servo: int, values: Mapping[str, int]) -> dict[str, int]:
        """Write lasting registers where they differ, with torque off meanwhile; returns what was written.

        A servo that held its position lets go for some milliseconds, and holds where it then stands.

        Raises:
            InputError: a register is none of these, or cannot hold its value.
            RobotError: the servo does not answer, refuses, or holds another value afterwards.
        """
        for register, value in values.items():
            where = self.table(servo)[register]
            if not where.eeprom:
                raise InputError(f"{register} is not lasting")
            where.encode(value)
        differing = {
            register: value for register, value in values.items() if self.read(servo, register) != value
        }
        if not differing:
            return {}
        held = self.read(servo, "torque_enable")
        if held:
            self.write_checked(servo, "torque_enable", 0)
        try:
            for register, value in differing.items():
                self.write_checked(servo, register, value)
        finally:
            if held:
                self.hold(servo)
        return differing

    def hold(self, servo: int) -> None:
        """Make the present position the goal, and switch torque on.

        Raises:
            RobotError: the servo does not answer, or does not take it.
        """
        if self.read(servo, "bus_watchdog") != 0:
            self.write_checked(servo, "bus_watchdog", 0)
        self.write(servo, "goal_position", self.read(servo, "present_position"))
        self.write_checked(servo, "torque_enable", 1)

    def set_torque(self, servos: Iterable[int], torque: Torque) -> None:
        """Switch torque, and look whether it is so; on: each holds the position where it stands.

        Raises:
            RobotError: one does not answer, or does not do it; those before it have.
        """
        for servo in servos:
            if torque is Torque.ON:
                self.hold(servo)
            else:
                self.write_checked(servo, "torque_enable", 0)

    # --- setting up ---

    def set_id(self, servo: int, new: int) -> None:
        """Give a servo another id; it lets go.

        Raises:
            RobotError: a servo answers to the new id already, or this one does not take it.
        """
        if servo == new:
            return
        if self.ping(new):
            raise RobotError(
                f"{self.port}: a servo with id {new} is on the line already; connect one at a time"
            )
        table = self.table(servo)
        self.write_checked(servo, "torque_enable", 0)
        # It may answer with either id, or its answer may be lost: what counts is who is there afterwards.
        self.core.exchange(
            servo, _WRITE, table["id"].address.to_bytes(2, "little") + bytes([_servo(new)]), 0, _TIMEOUT_S
        )
        self._tables.pop(servo, None)
        if not self.ping(new):
            raise RobotError(f"{self.port}: servo {servo} did not take the id {new}")

    def set_baud(self, servo: int, baud: int) -> None:
        """Give a servo another baud rate; it lets go, and is heard at the new rate only.

        Raises:
            InputError: no such rate.
            RobotError: it does not answer.
        """
        if baud not in BAUD_CODES:
            raise InputError(f"no baud rate {baud}; there are {', '.join(map(str, BAUD_CODES))}")
        address = self.table(servo)["baud_rate"].address
        self.write_checked(servo, "torque_enable", 0)
        if baud == self.baud:
            self.write_checked(servo, "baud_rate", BAUD_CODES[baud])
            return
        # Its answer may come at either rate.
        request = address.to_bytes(2, "little") + bytes([BAUD_CODES[baud]])
        for _ in range(2):
            self.core.exchange(servo, _WRITE, request, 0, _TIMEOUT_S)
        self._tables.pop(servo, None)

    def write_calibration(self, calibration: Mapping[str, JointCalibration]) -> None:
        """Write offset and limits of every joint, in a mode that heeds them; servos let go meanwhile.

        Raises:
            RobotError: one does not answer, or does not take them.
        """
        for joint in calibration.values():
            registers = calibration_registers(joint)
            if self._ignores(joint.id, joint.homing_offset):
                registers = {"operating_mode": EXTENDED_POSITION_MODE, **registers}
            self.write_eeprom(joint.id, registers)

    def homing_offset(self, servo: int) -> int:
        """Return what a servo adds to its encoder's ticks now: nothing where its mode ignores its offset.

        Raises:
            RobotError: it does not answer.
        """
        offset = self.read(servo, "homing_offset")
        return 0 if self._ignores(servo, offset) else offset

    def _ignores(self, servo: int, offset: int) -> bool:
        return abs(offset) > SINGLE_TURN_OFFSET_MAX and self.read(servo, "operating_mode") == POSITION_MODE

    def reset_calibration(self, servo: int) -> None:
        """Take offset and limits away, for a new calibration: counted over turns, so that none of them is an end.

        Raises:
            RobotError: it does not answer, or does not take them.
        """
        self.write_checked(servo, "torque_enable", 0)
        self.write_eeprom(
            servo,
            {
                "operating_mode": EXTENDED_POSITION_MODE,
                "homing_offset": 0,
                "min_position_limit": 0,
                "max_position_limit": 4095,
            },
        )

    def reboot(self, servo: int) -> None:
        """Switch a servo off and on: its errors are gone, its torque too.

        Raises:
            RobotError: it does not come back.
        """
        self.core.exchange(_servo(servo), _REBOOT, b"", 0, _TIMEOUT_S)
        deadline = time.monotonic() + _REBOOT_S
        time.sleep(0.05)  # it may still answer a ping before it goes
        while time.monotonic() < deadline:
            if self._identity(servo, _TIMEOUT_S, 1) is not None:
                return
        raise RobotError(
            f"{self.port}: servo {servo} does not come back after a reboot; switch its power off and on"
        )

    def statistics(self) -> dict[str, Any]:
        """Counters of the line since it was made."""
        counters = self.core.counters()
        return {
            "exchanges": counters["exchanges"],
            "retries": counters["retries"],
            "timeouts": counters["timeouts"],
            "checksum_errors": counters["damaged"],
        }

    # --- the wire ---

    def _ask(self, servo: int, instruction: int, parameters: bytes, size: int, what: str) -> bytes:
        for _ in range(_TRIES):
            status, error, data = self.core.exchange(_servo(servo), instruction, parameters, size, _TIMEOUT_S)
            if status == "ok":
                return data
            if status == "lost":
                raise RobotError(f"{self.port} was unplugged; plug it in again")
            # A damaged request is answered by nobody, or with error 3: that is worth another try.
            if status == "refused" and error & ~_ALERT != 3:
                why = _REFUSALS.get(error & ~_ALERT, f"error {error & ~_ALERT}")
                raise RobotError(f"{self.port}: servo {servo} refused {what}: {why}")
        raise self._silent(servo, what)

    def _silent(self, servo: int, what: str) -> RobotError:
        return RobotError(
            f"{self.port}: servo {servo} does not answer to {what}; is it powered, and plugged in on both sides? "
            "`molmoact2-edge scan` shows who answers"
        )


def calibration_registers(joint: JointCalibration) -> dict[str, int]:
    """Return what a joint's calibration puts into its servo."""
    return {
        "homing_offset": joint.homing_offset,
        "min_position_limit": joint.range_min,
        "max_position_limit": joint.range_max,
    }


def _meanings(errors: int) -> list[str]:
    return [text for bit, (_, text) in HARDWARE_ERRORS.items() if errors & bit]


def describe_errors(errors: int) -> str:
    """Return what the bits of a hardware error mean, as words."""
    return ", and ".join(_meanings(errors)) or "no error"


def _servo(servo: int) -> int:
    if not 0 <= servo <= ID_MAX:
        raise InputError(f"a servo's id is 0 to {ID_MAX}, got {servo}")
    return servo
