"""Who is on a CAN bus of Damiao motors: asked through python-can, before the bus belongs to the loop.

Nothing here moves a motor. Reading registers works in every state that a motor can be in.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from molmoact2_drivers.yam.registers import (
    GEAR_RATIO,
    IDENTITY,
    MASTER_ID,
    MOTOR_ID,
    PMAX,
    SERIAL_NUMBER,
    SOFTWARE_VERSION,
    TMAX,
    VMAX,
    Register,
)
from molmoact2_edge.errors import InputError, MissingExtraError, RobotError

_REGISTER_ID = 0x7FF
_READ, _WRITE, _SAVE = 0x33, 0x55, 0xAA
_ANSWER_S = 0.05
_SEND_S = 1.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class MotorIdentity:
    """What a motor says about itself."""

    id: int
    master_id: int
    """Under which it answers."""
    software: int
    serial: int
    gear: float
    """10 for a DM4310, 40 for a DM4340."""
    pmax: float
    vmax: float
    tmax: float

    @property
    def ranges(self) -> tuple[float, float, float]:
        """Full scales of position (rad), velocity (rad/s) and torque (Nm)."""
        return (self.pmax, self.vmax, self.tmax)


class RegisterBus:
    """Registers of the motors on one bus, one question at a time."""

    def __init__(self, bus: Any) -> None:
        """`bus` is a `can.BusABC` that is open."""
        self._bus = bus

    def read(self, motor: int, register: Register) -> float | None:
        """Return a register's value; None where the motor does not answer."""
        raw = self._ask(motor, _READ, register, 0)
        return None if raw is None else register.decode(raw)

    def write(self, motor: int, register: Register, value: float) -> None:
        """Set a register until the motor is switched off; see :meth:`save`.

        Raises:
            InputError: the register cannot be written.
            RobotError: the motor does not take it.
        """
        if not register.writable:
            raise InputError(f"register {register.address} ({register.name}) cannot be written")
        wanted = register.encode(value)
        if self._ask(motor, _WRITE, register, wanted) != wanted:
            raise RobotError(
                f"motor {motor} did not take {value:g} for register {register.address} ({register.name})"
            )

    def save(self, motor: int, register: Register) -> None:
        """Keep what was written over a power cycle. Raises RobotError where the motor does not answer."""
        if self._ask(motor, _SAVE, register, 0) is None:
            raise RobotError(f"motor {motor} did not save register {register.address} ({register.name})")

    def identify(self, motor: int) -> MotorIdentity | None:
        """Return who a motor is; None where it does not answer."""
        values: dict[Register, float] = {}
        for register in IDENTITY:
            value = self.read(motor, register)
            if value is None:
                return None
            values[register] = value
        return MotorIdentity(
            id=motor,
            master_id=int(values[MASTER_ID]),
            software=int(values[SOFTWARE_VERSION]),
            serial=int(values[SERIAL_NUMBER]),
            gear=values[GEAR_RATIO],
            pmax=values[PMAX],
            vmax=values[VMAX],
            tmax=values[TMAX],
        )

    def _ask(self, motor: int, action: int, register: Register, value: int) -> int | None:
        import can

        head = bytes([motor & 0xFF, motor >> 8, action, register.address])
        question = can.Message(
            arbitration_id=_REGISTER_ID, data=head + value.to_bytes(4, "little"), is_extended_id=False
        )
        for _ in range(_ATTEMPTS):
            with _bus_errors():
                self._bus.send(question, timeout=_SEND_S)
            deadline = time.monotonic() + _ANSWER_S
            while (left := deadline - time.monotonic()) > 0.0:
                with _bus_errors():
                    answer = self._received(left)
                if answer is None or answer.arbitration_id == _REGISTER_ID or answer.is_extended_id:
                    continue
                data = bytes(answer.data)
                if action == _SAVE and data[:3] == head[:3]:
                    return 0
                if data[:4] == head and len(data) == 8:
                    return int.from_bytes(data[4:], "little")
        return None

    def _received(self, timeout_s: float) -> Any:
        try:
            return self._bus.recv(timeout_s)
        except (ValueError, IndexError):
            return None  # python-can raises these on a line that came through garbled


@contextlib.contextmanager
def open_bus(port: str, baud: int, bitrate: int) -> Iterator[RegisterBus]:
    """Open a bus through python-can: `port` is the path of an slcan adapter, or the name of a CAN interface.

    Raises:
        MissingExtraError: python-can is not installed.
        RobotError: there is no such bus.
    """
    try:
        import can
    except ImportError as error:
        raise MissingExtraError(
            "CAN needs python-can and pyserial: pip install 'molmoact2-edge[arms]'"
        ) from error
    options: dict[str, Any] = {"interface": "socketcan", "channel": port}
    if "/" in port:
        options = {
            "interface": "slcan",
            "channel": port,
            "bitrate": bitrate,
            "tty_baudrate": baud,
            "sleep_after_open": 0.0,
        }
    try:
        bus = can.Bus(**options)
    except (can.CanError, OSError, ValueError) as error:
        raise RobotError(
            f"cannot open the CAN bus {port}: {error}; is the adapter plugged in, and the interface up?"
        ) from error
    try:
        yield RegisterBus(bus)
    finally:
        with contextlib.suppress(can.CanError, OSError):
            bus.shutdown()


def discover(
    port: str, baud: int = 1_000_000, bitrate: int = 1_000_000, ids: Iterable[int] = range(1, 16)
) -> list[MotorIdentity]:
    """Return the motors that answer on a bus, by id. Raises as :func:`open_bus`."""
    with open_bus(port, baud, bitrate) as bus:
        found = []
        for motor in ids:
            if bus.read(motor, MOTOR_ID) is not None:
                identity = bus.identify(motor)
                if identity is not None:
                    found.append(identity)
        return found


@contextlib.contextmanager
def _bus_errors() -> Iterator[None]:
    import can

    try:
        yield
    except (can.CanError, OSError) as error:
        raise RobotError(f"the CAN bus failed: {error}; is the adapter still plugged in?") from error
