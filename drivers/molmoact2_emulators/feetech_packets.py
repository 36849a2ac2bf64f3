"""Packets of Feetech's servo protocol as a servo sees them: requests in, answers out.

Request ``FF FF ID LEN INST P1..Pn CHK`` with LEN = n + 2, answer ``FF FF ID LEN ERR D1..Dn CHK``;
CHK = ~(ID + LEN + INST + P1 + .. + Pn) & 0xFF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BROADCAST = 0xFE
PING = 0x01
READ = 0x02
WRITE = 0x03
REG_WRITE = 0x04
ACTION = 0x05
SYNC_READ = 0x82
SYNC_WRITE = 0x83

HEADER = b"\xff\xff"
OVERHEAD = 6
"""Bytes of a packet without parameters."""
_LONGEST = 250  # LEN; what is longer is no packet
SILENCE_NS = 20_000_000
"""A packet whose next byte does not come for this long is given up."""


@dataclass(frozen=True)
class Request:
    """One request whose checksum holds."""

    id: int
    instruction: int
    parameters: bytes = b""

    def encoded(self) -> bytes:
        """Return the packet."""
        return packet(self.id, self.instruction, self.parameters)


def packet(servo_id: int, third: int, data: bytes = b"") -> bytes:
    """Return a packet; the third field is a request's instruction or an answer's error byte."""
    body = bytes((servo_id, len(data) + 2, third)) + data
    return HEADER + body + bytes((~sum(body) & 0xFF,))


def sync_read(address: int, length: int, ids: Sequence[int]) -> Request:
    """Return the request for the same registers of several servos."""
    return Request(BROADCAST, SYNC_READ, bytes((address, length, *ids)))


def sync_writes(parameters: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (id, address, data) of a SYNC_WRITE; nothing where its length is wrong."""
    if len(parameters) < 2 or parameters[1] == 0:
        return
    address, length = parameters[0], parameters[1]
    blocks = parameters[2:]
    if len(blocks) % (length + 1):
        return
    for start in range(0, len(blocks), length + 1):
        yield blocks[start], address, blocks[start + 1 : start + 1 + length]


class RequestParser:
    """Finds requests in a stream of bytes.

    A wrong checksum is no request, and the servo says nothing about it; what a wrong length swallows is lost with it.
    The next packet is found by its header, at the latest after :data:`SILENCE_NS` without a byte.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._heard_ns = 0

    def feed(self, data: bytes, now_ns: int) -> list[tuple[Request, int]]:
        """Take bytes that came at a time; returns each request with how many of these bytes follow it."""
        if now_ns - self._heard_ns > SILENCE_NS:
            self._buffer.clear()
        self._heard_ns = now_ns
        buffer = self._buffer
        buffer += data
        found: list[tuple[Request, int]] = []
        while True:
            self._seek_header()
            if len(buffer) < 4 or len(buffer) < buffer[3] + 4:
                return found
            end = buffer[3] + 4
            body = bytes(buffer[2:end])
            del buffer[:end]
            if ~sum(body[:-1]) & 0xFF == body[-1]:
                found.append((Request(body[0], body[2], body[3:-1]), len(buffer)))

    def _seek_header(self) -> None:
        """Drop bytes until the buffer begins like a packet, or may still become one."""
        buffer = self._buffer
        while buffer:
            start = buffer.find(0xFF)
            if start < 0:
                buffer.clear()
                return
            del buffer[:start]
            header = buffer[:2] == HEADER or len(buffer) == 1
            # A third FF is one byte of noise more before the header, not an id.
            if (
                header
                and (len(buffer) < 3 or buffer[2] != 0xFF)
                and (len(buffer) < 4 or 2 <= buffer[3] <= _LONGEST)
            ):
                return
            del buffer[0]
