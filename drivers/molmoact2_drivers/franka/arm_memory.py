"""Memory that the control process shares with the process which holds the arm's connection: states out, targets in.

Each direction is one mailbox with one writer. A value is written into the older of two slots and closed by a checksum,
so that a reader finds a whole one at any time, on processors that reorder stores too, and neither side ever waits.
Units are the arm's own (rad, Nm); times are CLOCK_MONOTONIC, which all processes of a computer share.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Any

JOINTS = 7
_CHECKSUM = struct.Struct("<I")
_STATE = struct.Struct("<QqQBBQd7d7d7d7d")
_TARGET = struct.Struct("<Qq7d")


@dataclass(frozen=True)
class ArmState:
    """One state as the arm reported it, with when it came."""

    time_ns: int
    robot_time_ms: int
    """The arm's own clock: it stands still in a repeated state."""
    phase: int
    """Of the process: `READING`, `FOLLOWING` or `DAMPING`."""
    robot_mode: int
    """libfranka's `RobotMode`."""
    target_sequence: int
    """Of the newest target that the process has taken."""
    success_rate: float
    """Share of the last 100 commands that reached the arm in time; 0 while it is not moved."""
    positions: tuple[float, ...]
    velocities: tuple[float, ...]
    torques: tuple[float, ...]
    commanded: tuple[float, ...]
    """Positions that the arm was last told to have."""


@dataclass(frozen=True)
class ArmTarget:
    """Where the arm is wanted, and since when."""

    sequence: int
    """Counts from 1."""
    time_ns: int
    positions: tuple[float, ...]


READING, FOLLOWING, DAMPING = range(3)


class _Mailbox:
    """The newest value of one writer, in two slots of a memory map."""

    def __init__(self, memory: mmap.mmap, offset: int, layout: struct.Struct) -> None:
        self._memory = memory
        self._layout = layout
        size = layout.size + _CHECKSUM.size
        self._slots = (slice(offset, offset + size), slice(offset + size, offset + 2 * size))
        self._sequence = 0

    @staticmethod
    def size(layout: struct.Struct) -> int:
        return 2 * (layout.size + _CHECKSUM.size)

    def write(self, *values: Any) -> None:
        self._sequence += 1
        body = self._layout.pack(self._sequence, *values)
        self._memory[self._slots[self._sequence % 2]] = body + _CHECKSUM.pack(zlib.crc32(body))

    def read(self) -> tuple[Any, ...] | None:
        newest: tuple[Any, ...] | None = None
        for slot in self._slots:
            data = self._memory[slot]
            body = data[: self._layout.size]
            if _CHECKSUM.unpack_from(data, self._layout.size)[0] != zlib.crc32(body):
                continue  # caught half-way; the other slot is whole
            values = self._layout.unpack(body)
            # Memory that nobody has written is zero, and the checksum of zeros is not.
            if newest is None or values[0] > newest[0]:
                newest = values
        return newest


class ArmMemory:
    """The two mailboxes."""

    def __init__(self, descriptor: int) -> None:
        """Map the memory behind a descriptor, which stays the caller's."""
        size = _Mailbox.size(_STATE) + _Mailbox.size(_TARGET)
        self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED)
        self._states = _Mailbox(self._memory, 0, _STATE)
        self._targets = _Mailbox(self._memory, _Mailbox.size(_STATE), _TARGET)

    @staticmethod
    def create() -> int:
        """Return the descriptor of new memory without a name; the caller closes it."""
        descriptor = os.memfd_create("molmoact2-franka", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _Mailbox.size(_STATE) + _Mailbox.size(_TARGET))
        return descriptor

    def write_state(self, state: ArmState) -> None:
        """Publish a state. Only the arm's process does."""
        self._states.write(
            state.time_ns,
            state.robot_time_ms,
            state.phase,
            state.robot_mode,
            state.target_sequence,
            state.success_rate,
            *state.positions,
            *state.velocities,
            *state.torques,
            *state.commanded,
        )

    def read_state(self) -> ArmState | None:
        """Return the newest state; None before the first."""
        values = self._states.read()
        if values is None:
            return None
        joints = [tuple(values[start : start + JOINTS]) for start in range(7, 7 + 4 * JOINTS, JOINTS)]
        return ArmState(*values[1:7], *joints)

    def write_target(self, time_ns: int, positions: tuple[float, ...]) -> None:
        """Publish a target. Only the control process does, from one thread at a time."""
        self._targets.write(time_ns, *positions)

    def read_target(self) -> ArmTarget | None:
        """Return the newest target; None before the first."""
        values = self._targets.read()
        return None if values is None else ArmTarget(values[0], values[1], tuple(values[2:]))

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()
