"""Modbus RTU, as far as a gripper wants it: registers of one device read and written over a serial port."""

from __future__ import annotations

import struct
import termios
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from molmoact2_edge.errors import MissingExtraError, RobotError

if TYPE_CHECKING:
    from serial import Serial

READ_HOLDING = 0x03
WRITE_MULTIPLE = 0x10
_REFUSED = 0x80
_TIMEOUT_S = 0.1
_TRIES = 3
_REASONS = {
    1: "it does not know the function",
    2: "it has no such register",
    3: "a value is out of range",
    4: "it failed",
    6: "it is busy",
}


def crc16(data: bytes) -> int:
    """CRC-16 with polynomial 0x8005 reflected, as Modbus begins it."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def frame(unit: int, function: int, data: bytes) -> bytes:
    """One message with its checksum, low byte first."""
    message = bytes([unit, function]) + data
    return message + crc16(message).to_bytes(2, "little")


class UnpluggedError(RobotError):
    """The port is gone."""


class ModbusLine:
    """A serial port with Modbus RTU devices on it. One thread at a time; every call waits for its answer."""

    def __init__(self, port: str, baud: int) -> None:
        """Opens nothing."""
        self.port = port
        self._baud = baud
        self._serial: Serial | None = None

    @property
    def is_open(self) -> bool:
        """Whether the device is there: False once it was found to be unplugged."""
        return self._serial is not None

    def open(self) -> None:
        """Open the port for this process alone.

        Raises:
            MissingExtraError: pyserial is not installed.
            RobotError: there is no such device, or it cannot be had.
        """
        try:
            import serial
        except ImportError as error:
            raise MissingExtraError(
                "a Robotiq gripper wants pyserial, which is not installed: pip install 'molmoact2-edge[arms]'"
            ) from error
        try:
            self._serial = serial.Serial(self.port, self._baud, timeout=_TIMEOUT_S, exclusive=True)
        except (OSError, ValueError) as error:
            raise RobotError(
                f"cannot open {self.port}: {error}; is it plugged in? `molmoact2-edge find-port` lists the ports"
            ) from error

    def close(self) -> None:
        """Close the port."""
        if self._serial is not None:
            self._serial.close()
            self._serial = None

    def read_registers(self, unit: int, address: int, count: int) -> tuple[int, ...]:
        """Return 16-bit registers.

        Raises:
            UnpluggedError: the port is gone.
            RobotError: no valid answer, or the device refuses.
        """
        answer = self._ask(unit, READ_HOLDING, struct.pack(">HH", address, count), 3 + 2 * count)
        return struct.unpack(f">{count}H", answer[1:])

    def write_registers(self, unit: int, address: int, values: Sequence[int]) -> None:
        """Write 16-bit registers.

        Raises:
            UnpluggedError: the port is gone.
            RobotError: no valid answer, or the device refuses.
        """
        data = struct.pack(f">HHB{len(values)}H", address, len(values), 2 * len(values), *values)
        self._ask(unit, WRITE_MULTIPLE, data, 6)

    def _ask(self, unit: int, function: int, data: bytes, size: int) -> bytes:
        """Return what comes after unit and function; ``size`` is that of the answer without its checksum."""
        request = frame(unit, function, data)
        for _ in range(_TRIES):
            answer = self._exchange(request, size + 2)
            if len(answer) < 5 or crc16(answer[:-2]) != int.from_bytes(answer[-2:], "little"):
                continue
            if answer[0] == unit and answer[1] == function | _REFUSED:
                why = _REASONS.get(answer[2], f"code {answer[2]}")
                raise RobotError(f"{self.port}: device {unit} refused function {function:#04x}: {why}")
            if answer[0] == unit and answer[1] == function and len(answer) == size + 2:
                return answer[2:-2]
        raise RobotError(
            f"{self.port}: device {unit} does not answer; is it powered, and its address {unit} at {self._baud} baud?"
        )

    def _exchange(self, request: bytes, size: int) -> bytes:
        if self._serial is None:
            raise UnpluggedError(f"{self.port} is not open")
        try:
            self._serial.reset_input_buffer()
            self._serial.write(request)
            return self._receive(self._serial, size)
        except (
            OSError,
            termios.error,
        ) as error:  # pyserial's own errors are OSErrors, but for discarding its input
            self.close()
            raise UnpluggedError(f"{self.port} was unplugged: {error}") from error

    @staticmethod
    def _receive(port: Serial, size: int) -> bytes:
        deadline = time.monotonic() + _TIMEOUT_S
        answer = port.read(5)  # a refusal has no more
        if len(answer) == 5 and not answer[1] & _REFUSED:
            port.timeout = max(0.0, deadline - time.monotonic())
            answer += port.read(size - 5)
            port.timeout = _TIMEOUT_S
        return bytes(answer)
