"""The device's end of Modbus RTU: requests found in the bytes of a wire, and answers to them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

READ_HOLDING = 0x03
READ_INPUT = 0x04
WRITE_SINGLE = 0x06
WRITE_MULTIPLE = 0x10
READ_WRITE = 0x17

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3

_LONGEST = 256
_SHORTEST = 4


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_TABLE = _crc_table()


def checksum(data: bytes) -> bytes:
    """The two bytes that end a message."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


@dataclass(frozen=True)
class ModbusRequest:
    """One valid message."""

    unit: int
    function: int
    data: bytes


def _size(message: bytes) -> int | None:
    """How long the message that begins here is; None: that is not known yet, 0: no such message."""
    function = message[1]
    if function in (READ_HOLDING, READ_INPUT, WRITE_SINGLE):
        return 8
    if function == WRITE_MULTIPLE:
        return None if len(message) < 7 else 9 + message[6]
    if function == READ_WRITE:
        return None if len(message) < 11 else 13 + message[10]
    return 0


class RequestReader:
    """Finds messages. Modbus RTU ends them by silence: after it ``forget`` drops what is left."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[ModbusRequest]:
        """Take bytes; yields the messages that are whole now."""
        self._bytes += data
        while len(self._bytes) >= _SHORTEST:
            size = _size(bytes(self._bytes[:_LONGEST]))
            if size is None:
                return
            if size == 0:
                # A function that nobody has: a message of unknown length ends where its checksum fits.
                size = next((n for n in range(_SHORTEST, len(self._bytes) + 1) if self._fits(n)), 0)
                if size == 0:
                    return
            if len(self._bytes) < size:
                return
            if not self._fits(size):
                del self._bytes[0]
                continue
            message = bytes(self._bytes[:size])
            del self._bytes[:size]
            yield ModbusRequest(message[0], message[1], message[2:-2])

    def forget(self) -> None:
        """Drop an unfinished message."""
        self._bytes.clear()

    def _fits(self, size: int) -> bool:
        message = bytes(self._bytes[:size])
        return checksum(message[:-2]) == message[-2:]


class RefusedError(Exception):
    """A request that the device answers with a code instead."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Registers:
    """What a device has: read and written as words at addresses; both raise RefusedError."""

    def __init__(
        self, read: Callable[[int, int], list[int]], write: Callable[[int, list[int]], None]
    ) -> None:
        self.read = read
        self.write = write


def answer(request: ModbusRequest, registers: Registers) -> bytes:
    """Carry out a request; returns the answer with its checksum."""
    try:
        data = _carry_out(request, registers)
        message = bytes([request.unit, request.function]) + data
    except RefusedError as error:
        message = bytes([request.unit, request.function | 0x80, error.code])
    return message + checksum(message)


def _carry_out(request: ModbusRequest, registers: Registers) -> bytes:
    data = request.data
    if request.function in (READ_HOLDING, READ_INPUT):
        address, count = struct.unpack(">HH", data)
        return _words(registers, address, count)
    if request.function == WRITE_SINGLE:
        address, value = struct.unpack(">HH", data)
        registers.write(address, [value])
        return data
    if request.function == WRITE_MULTIPLE:
        address, count, size = struct.unpack_from(">HHB", data)
        registers.write(address, _values(data[5:], count, size))
        return data[:4]
    if request.function == READ_WRITE:
        address, count, to, words, size = struct.unpack_from(">HHHHB", data)
        registers.write(to, _values(data[9:], words, size))
        return _words(registers, address, count)
    raise RefusedError(ILLEGAL_FUNCTION)


def _words(registers: Registers, address: int, count: int) -> bytes:
    if not 1 <= count <= 125:
        raise RefusedError(ILLEGAL_VALUE)
    words = registers.read(address, count)
    return bytes([2 * count]) + struct.pack(f">{count}H", *words)


def _values(data: bytes, count: int, size: int) -> list[int]:
    if size != 2 * count or len(data) != size or not 1 <= count <= 123:
        raise RefusedError(ILLEGAL_VALUE)
    return list(struct.unpack(f">{count}H", data))
