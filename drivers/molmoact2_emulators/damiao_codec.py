"""Damiao's eight bytes in Python, written apart from the driver's C++ so that each checks the other.

Source: Damiao's manual of the DM-J43 series. Codes are cut off, not rounded, as the motors' own libraries do it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

REGISTER_ID = 0x7FF
FEEDBACK_OFFSET = 0x10

READ, WRITE, SAVE, REFRESH = 0x33, 0x55, 0xAA, 0xCC
CLEAR_ERROR, ENABLE, DISABLE, SET_ZERO = 0xFB, 0xFC, 0xFD, 0xFE
COMMAND_PREFIX = b"\xff" * 7

KP_MAX = 500.0
KD_MAX = 5.0


@dataclass(frozen=True)
class CanFrame:
    """A classic CAN frame."""

    id: int
    data: bytes
    extended: bool = False
    remote: bool = False


@dataclass(frozen=True)
class Ranges:
    """Full scale of a motor's MIT frames: registers 21 to 23."""

    position: float
    velocity: float
    torque: float


@dataclass(frozen=True)
class MitCommand:
    """What a MIT frame asks for: rad, rad/s, Nm/rad, Nm s/rad, Nm."""

    position: float = 0.0
    velocity: float = 0.0
    kp: float = 0.0
    kd: float = 0.0
    torque: float = 0.0


def code(value: float, low: float, high: float, bits: int) -> int:
    """Return the number that stands for `value`; beyond the range, its nearest end."""
    return int((min(max(value, low), high) - low) / (high - low) * ((1 << bits) - 1))


def value(code: int, low: float, high: float, bits: int) -> float:
    """Inverse of :func:`code`, up to its resolution."""
    return code / ((1 << bits) - 1) * (high - low) + low


def pack_mit(command: MitCommand, ranges: Ranges) -> bytes:
    """Return the eight bytes of a MIT frame."""
    number = code(command.position, -ranges.position, ranges.position, 16)
    number = number << 12 | code(command.velocity, -ranges.velocity, ranges.velocity, 12)
    number = number << 12 | code(command.kp, 0.0, KP_MAX, 12)
    number = number << 12 | code(command.kd, 0.0, KD_MAX, 12)
    number = number << 12 | code(command.torque, -ranges.torque, ranges.torque, 12)
    return number.to_bytes(8, "big")


def unpack_mit(data: bytes, ranges: Ranges) -> MitCommand:
    """Return what eight bytes ask for."""
    number = int.from_bytes(data, "big")
    return MitCommand(
        position=value(number >> 48, -ranges.position, ranges.position, 16),
        velocity=value(number >> 36 & 0xFFF, -ranges.velocity, ranges.velocity, 12),
        kp=value(number >> 24 & 0xFFF, 0.0, KP_MAX, 12),
        kd=value(number >> 12 & 0xFFF, 0.0, KD_MAX, 12),
        torque=value(number & 0xFFF, -ranges.torque, ranges.torque, 12),
    )


def pack_feedback(
    motor: int,
    status: int,
    position: float,
    velocity: float,
    torque: float,
    driver_celsius: int,
    rotor_celsius: int,
    ranges: Ranges,
) -> bytes:
    """Return the eight bytes with which a motor answers."""
    number = code(position, -ranges.position, ranges.position, 16)
    number = number << 12 | code(velocity, -ranges.velocity, ranges.velocity, 12)
    number = number << 12 | code(torque, -ranges.torque, ranges.torque, 12)
    return (
        bytes([status << 4 | motor & 0xF])
        + number.to_bytes(5, "big")
        + bytes([driver_celsius, rotor_celsius])
    )


def raw_float(number: float) -> int:
    """Return the four bytes of a register's float as one number."""
    return int.from_bytes(struct.pack("<f", number), "little")


def float_of(raw: int) -> float:
    """Inverse of :func:`raw_float`."""
    (number,) = struct.unpack("<f", raw.to_bytes(4, "little"))
    return float(number)
