"""Feetech servos one by one: find them, read and write their registers, set them up, as commands do.

All times are generous and everything is tried again: on this side nobody has a deadline.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from molmoact2_drivers.calibration import RESOLUTION, JointCalibration
from molmoact2_drivers.servos import FoundServo, require_line
from molmoact2_edge._core import feetech as core
from molmoact2_edge.errors import InputError, RobotError

STS3215 = core.STS3215
BAUDS = tuple(STS3215.baud_codes)
"""Baud rates of the servos, that of an arm first."""
DEFAULT_BAUD = 1_000_000

_SERVO_MAX = core.MAX_SERVO
_TIMEOUT_S = 0.02
_TRIES = 5
_PING_TIMEOUT_S = 0.004
_PING_TRIES = 2
_SYNC_TIMEOUT_S = 0.3
_OPERATING_MODE_POSITION = 0


class Torque(enum.IntEnum):
    """What a servo's motor does; the values of its register."""

    OFF = 0
    ON = 1
    DAMPED = 2
    """Gives way, braked."""


def error_names(bits: int) -> tuple[str, ...]:
    """Return what the error bits of a status packet say."""
    return tuple(name for name, bit in core.ERROR_BITS.items() if bits & bit)


class ServoBus:
    """A line of STS servos. Safe beside a loop that runs on it: the loop goes first, and waits for nobody."""

    def __init__(self, port: str, baud: int = DEFAULT_BAUD) -> None:
        """Opens nothing.

        Raises:
            InputError: no path, or no baud rate.
        """
        require_line(port, baud)
        self.core = core.ServoBus(port, baud)

    @property
    def port(self) -> str:
        """Path of the device."""
        return self.core.path

    @property
    def baud(self) -> int:
        """Bits a second."""
        return self.core.baud

    @property
    def is_open(self) -> bool:
        """Whether the device is there: False once it was found to be unplugged."""
        return self.core.is_open

    def open(self) -> None:
        """Open the line for this process alone.

        Raises:
            RobotError: no such device, no permission, or in use.
        """
        try:
            self.core.open()
        except RuntimeError as error:
            raise RobotError(str(error)) from error

    def close(self) -> None:
        """Close it; servos keep doing what they do."""
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
        return self.core.ping(_servo(servo), _TIMEOUT_S, _TRIES) is not None

    def identify(self, servo: int) -> FoundServo | None:
        """Return what a servo says about itself; None where none answers."""
        if self.core.ping(_servo(servo), _PING_TIMEOUT_S, _PING_TRIES) is None:
            return None
        answer = self.core.read(servo, 0, 5, _TIMEOUT_S, _TRIES)
        if answer is None:
            return None
        (major, minor, _, low, high), errors = answer
        number = low | high << 8
        return FoundServo(
            servo,
            self.baud,
            number,
            STS3215.name if number == STS3215.number else None,
            f"{major}.{minor}",
            error_names(errors),
        )

    def scan(self, servos: Iterable[int] = range(_SERVO_MAX + 1)) -> list[FoundServo]:
        """Ask every id; returns those that answer, lowest id first. An id that does not takes some 10 ms."""
        found = [self.identify(servo) for servo in servos]
        self._require_open()
        return sorted((servo for servo in found if servo is not None), key=lambda servo: servo.servo)

    # --- registers ---

    def read(self, servo: int, register: str) -> int:
        """Return a register's value, signed where the register is.

        Raises:
            InputError: there is no such register.
            RobotError: the servo does not answer.
        """
        where = _register(register)
        answer = self.core.read(_servo(servo), where.address, where.size, _TIMEOUT_S, _TRIES)
        if answer is None:
            raise self._silent(servo, f"a read of {register}")
        return where.decode(answer[0])

    def read_many(self, servos: Sequence[int], register: str) -> dict[int, int]:
        """Return a register of several servos, asked for at once.

        Raises:
            InputError: there is no such register.
            RobotError: one of them does not answer.
        """
        where = _register(register)
        asked = [_servo(servo) for servo in servos]
        answers = self.core.sync_read(asked, where.address, where.size, _SYNC_TIMEOUT_S)
        for servo in asked:
            if servo not in answers:
                raise self._silent(servo, f"a read of {register}")
        return {servo: where.decode(answers[servo][0]) for servo in asked}

    def write(self, servo: int, register: str, value: int) -> None:
        """Write a register; whether the servo took it is not looked at (see `write_checked`).

        Raises:
            InputError: there is no such register, it cannot be written, or cannot hold the value.
            RobotError: the servo does not answer.
        """
        where = _register(register)
        if where.read_only:
            raise InputError(f"{register} cannot be written")
        try:
            data = where.encode(value)
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.core.write(_servo(servo), where.address, data, _TIMEOUT_S, _TRIES) is None:
            raise self._silent(servo, f"a write to {register}")

    def write_checked(self, servo: int, register: str, value: int) -> None:
        """Write a register and read it back.

        Raises:
            InputError: like `write`.
            RobotError: the servo does not answer, or holds another value afterwards.
        """
        self.write(servo, register, value)
        held = self.read(servo, register)
        if held != value:
            raise RobotError(
                f"servo {servo} on {self.port} does not take {register}: wrote {value}, it has {held}"
            )

    def write_eeprom(self, servo: int, values: Mapping[str, int]) -> dict[str, int]:
        """Make registers that are kept without power hold these values; returns those that had to be written.

        Where any differs, the servo's torque is turned off, its EEPROM unlocked, and locked again afterwards.

        Raises:
            InputError: like `write`, or a register that is not kept.
            RobotError: the servo does not answer, or keeps another value.
        """
        for register in values:
            if not _register(register).eeprom:
                raise InputError(f"{register} is not kept without power; write it with write()")
        different = {name: value for name, value in values.items() if self.read(servo, name) != value}
        if not different:
            return {}
        self.set_torque([servo], Torque.OFF)
        self.write_checked(servo, "lock", 0)
        try:
            for register, value in different.items():
                self.write(servo, register, value)
                held = self.read(servo, register)
                if held != value:
                    raise RobotError(
                        f"servo {servo} on {self.port} keeps {register} at {held}, {value} was written: its EEPROM is "
                        "locked or worn; switch its power off and on and try again"
                    )
        finally:
            self.write_checked(servo, "lock", 1)
        return different

    def set_torque(self, servos: Iterable[int], torque: Torque) -> None:
        """Turn the servos' torque on or off, or damp them, and check it.

        Raises:
            RobotError: a servo does not answer or does not obey.
        """
        for servo in servos:
            self.write_checked(servo, "torque_enable", int(torque))

    # --- setting up ---

    def set_id(self, servo: int, new: int) -> None:
        """Give a servo another id.

        Raises:
            RobotError: it does not answer, does not take it, or another one has that id.
        """
        if _servo(new) == servo:
            return
        if self.ping(new):
            raise RobotError(
                f"a servo on {self.port} has the id {new} already; connect only the one that is to get it"
            )
        self._readdress(servo, "id", new, self, new)

    def set_baud(self, servo: int, baud: int) -> None:
        """Give a servo another baud rate; this bus does not reach it any more unless it is its own.

        Raises:
            InputError: no baud rate of this model.
            RobotError: it does not answer, or does not take it.
        """
        code = STS3215.baud_codes.get(baud)
        if code is None:
            raise InputError(f"the servos have the baud rates {', '.join(map(str, BAUDS))}; got {baud}")
        if self.read(servo, "baud_rate") == code:
            return
        if baud == self.baud:
            self._readdress(servo, "baud_rate", code, self, servo)
            return
        self._prepare(servo)
        where = _register("baud_rate")
        # It may answer at the old rate, at the new one, or not at all; only being found there counts.
        self.core.write(servo, where.address, where.encode(code), _TIMEOUT_S, 1)
        self.close()
        try:
            with ServoBus(self.port, baud) as there:
                if not there.ping(servo):
                    raise RobotError(
                        f"servo {servo} on {self.port} does not answer at {baud} baud after it was set"
                    )
                there.write_checked(servo, "lock", 1)
        finally:
            self.open()

    def reset_calibration(self, servo: int) -> None:
        """Let a servo say what its encoder says: no offset, the whole turn, position mode, torque off.

        Raises:
            RobotError: it does not answer, or does not take it.
        """
        self.set_torque([servo], Torque.OFF)
        self.write_eeprom(
            servo,
            {
                "operating_mode": _OPERATING_MODE_POSITION,
                "homing_offset": 0,
                "min_position_limit": 0,
                "max_position_limit": RESOLUTION - 1,
            },
        )

    def write_calibration(self, calibration: Mapping[str, JointCalibration]) -> dict[int, dict[str, int]]:
        """Write offsets and ranges to the servos; returns, by id, what differed.

        Raises:
            RobotError: a servo does not answer, or does not take it.
        """
        return {
            joint.id: self.write_eeprom(joint.id, calibration_registers(joint))
            for joint in calibration.values()
        }

    def homing_offset(self, servo: int) -> int:
        """Return what a servo subtracts from its encoder's ticks.

        Raises:
            RobotError: it does not answer.
        """
        return self.read(servo, "homing_offset")

    def statistics(self) -> dict[str, int]:
        """Return what was counted since the bus was made: exchanges, retries, timeouts, checksum_errors, ..."""
        return self.core.statistics()

    def _prepare(self, servo: int) -> None:
        self.set_torque([servo], Torque.OFF)
        self.write_checked(servo, "lock", 0)

    def _readdress(self, servo: int, register: str, value: int, there: ServoBus, new: int) -> None:
        """Write what changes how a servo is reached; only its answer there counts."""
        self._prepare(servo)
        where = _register(register)
        self.core.write(servo, where.address, where.encode(value), _TIMEOUT_S, 1)
        if not there.ping(new):
            raise RobotError(f"servo {servo} on {self.port} does not take {register} {value}")
        there.write_checked(new, "lock", 1)

    def _require_open(self) -> None:
        if not self.is_open:
            raise RobotError(f"{self.port} is not open, or was unplugged")

    def _silent(self, servo: int, what: str) -> RobotError:
        if not self.is_open:
            return RobotError(f"{self.port} is not open, or was unplugged")
        return RobotError(
            f"servo {servo} on {self.port} does not answer to {what} at {self.baud} baud; check its cable and its power"
        )


def calibration_registers(joint: JointCalibration) -> dict[str, int]:
    """Return what a calibrated joint's servo holds."""
    return {
        "homing_offset": joint.homing_offset,
        "min_position_limit": joint.range_min,
        "max_position_limit": joint.range_max,
    }


def scan_port(
    port: str, bauds: Sequence[int] = BAUDS, servos: Iterable[int] = range(_SERVO_MAX + 1)
) -> list[FoundServo]:
    """Ask every id at every baud rate; returns those that answer.

    Raises:
        RobotError: the port does not open, or goes away.
    """
    asked = list(servos)
    found: list[FoundServo] = []
    for baud in bauds:
        with ServoBus(port, baud) as bus:
            found += bus.scan(asked)
    return found


def _servo(servo: int) -> int:
    if isinstance(servo, bool) or not isinstance(servo, int) or not 0 <= servo <= _SERVO_MAX:
        raise InputError(f"a servo's id is 0 to {_SERVO_MAX}, got {servo!r}")
    return servo


def _register(name: str) -> core.Register:
    register = STS3215.registers.get(name)
    if register is None:
        raise InputError(f"no register {name!r}; there are {', '.join(STS3215.registers)}")
    return register
