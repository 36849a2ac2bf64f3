"""Dynamixel's protocol 2.0 as the servos speak it: apart from the driver's own, so that each tests the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PING = 0x01
READ = 0x02
WRITE = 0x03
REG_WRITE = 0x04
ACTION = 0x05
FACTORY_RESET = 0x06
REBOOT = 0x08
CLEAR = 0x10
STATUS = 0x55
SYNC_READ = 0x82
SYNC_WRITE = 0x83
FAST_SYNC_READ = 0x8A
BULK_READ = 0x92
BULK_WRITE = 0x93
FAST_BULK_READ = 0x9A

BROADCAST = 0xFE

# Numbers in a status packet's error byte.
RESULT_FAIL = 1
INSTRUCTION_ERROR = 2
CRC_ERROR = 3
DATA_RANGE = 4
DATA_LENGTH = 5
DATA_LIMIT = 6
ACCESS = 7
ALERT = 0x80

_HEADER = b"\xff\xff\xfd\x00"
_PATTERN = b"\xff\xff\xfd"
_LONGEST = 1024


def crc16(data: bytes, crc: int = 0) -> int:
    """CRC-16 with polynomial 0x8005, most significant bit first."""
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def _table() -> tuple[int, ...]:
    return tuple(crc16(bytes([byte])) for byte in range(256))


_TABLE = _table()


def crc_fast(data: bytes, crc: int = 0) -> int:
    """The same by a table, for what is on the wire all the time."""
    for byte in data:
        crc = (crc << 8 & 0xFF00) ^ _TABLE[crc >> 8 ^ byte]
    return crc


def stuff(body: bytes) -> bytes:
    """Put FD after every FF FF FD, in instruction and parameters alike."""
    return body.replace(_PATTERN, _PATTERN + b"\xfd")


def unstuff(body: bytes) -> bytes:
    """Undo :func:`stuff`."""
    return body.replace(_PATTERN + b"\xfd", _PATTERN)


def packet(servo: int, instruction: int, parameters: bytes = b"") -> bytes:
    """One whole packet."""
    body = stuff(bytes([instruction]) + parameters)
    head = _HEADER + bytes([servo]) + (len(body) + 2).to_bytes(2, "little") + body
    return head + crc_fast(head).to_bytes(2, "little")


def status(servo: int, error: int, data: bytes = b"") -> bytes:
    """One servo's answer."""
    return packet(servo, STATUS, bytes([error]) + data)


def combined_status(parts: list[tuple[int, int, bytes]], sizes: list[int]) -> bytes:
    """The answer of several servos to a fast read of ``sizes`` bytes: ``(id, error, data)`` of the first of them.

    Each servo appends its part with a CRC over everything before it; the last CRC is therefore the packet's. Where a
    servo is missing, it and those behind it say nothing, and the packet breaks off.
    """
    length = 1 + sum(4 + size for size in sizes)
    answer = _HEADER + bytes([BROADCAST]) + length.to_bytes(2, "little") + bytes([STATUS])
    crc = crc_fast(answer)
    for servo, error, data in parts:
        part = bytes([error, servo]) + data
        crc = crc_fast(part, crc)
        part += crc.to_bytes(2, "little")
        crc = crc_fast(part[-2:], crc)
        answer += part
    return answer


@dataclass(frozen=True)
class Request:
    """One valid packet that came in."""

    servo: int
    instruction: int
    parameters: bytes


class RequestReader:
    """Finds requests in the bytes of a wire; what is damaged is passed over, as servos do."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.damaged = 0

    def feed(self, data: bytes) -> Iterator[Request]:
        """Take bytes; yields the requests that are whole now."""
        self._bytes += data
        while True:
            start = self._bytes.find(_HEADER)
            if start < 0:
                del self._bytes[: max(0, len(self._bytes) - len(_HEADER) + 1)]
                return
            del self._bytes[:start]
            if len(self._bytes) < 7:
                return
            size = 7 + int.from_bytes(self._bytes[5:7], "little")
            if not 10 <= size <= _LONGEST:
                self._skip()
                continue
            if len(self._bytes) < size:
                return
            whole = bytes(self._bytes[:size])
            if crc_fast(whole[:-2]) != int.from_bytes(whole[-2:], "little"):
                self._skip()
                continue
            del self._bytes[:size]
            body = unstuff(whole[7:-2])
            if body[0] != STATUS:  # a servo's own voice, where an adapter repeats it
                yield Request(whole[4], body[0], body[1:])

    def forget(self) -> None:
        """Drop an unfinished packet: servos do when the wire has been silent for a while."""
        self._bytes.clear()

    def _skip(self) -> None:
        self.damaged += 1
        del self._bytes[0]
