"""What the process on the wire and the process of the simulated table tell each other, in shared memory."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

JOINT_COUNT = 6
STEP_S = 0.004
"""Of the physics, and of what is exchanged."""
READY = "ready"
"""The first line of the table's process, when everything in it is there; otherwise the line says why not."""
_RECORD_BYTES = 2048
_CHECKSUM = struct.Struct("<I")
_ATTEMPTS = 8


class Mailbox:
    """The newest record of numbers; one process writes, others look, nobody waits.

    A record that is read while it is written has the wrong checksum, whatever order a processor shows memory in.
    """

    def __init__(self, memory: mmap.mmap, offset: int, count: int) -> None:
        self._memory = memory
        self._offset = offset
        self._struct = struct.Struct(f"<{count}d")

    def write(self, values: Sequence[float]) -> None:
        """Put a record in the old one's place."""
        content = self._struct.pack(*values)
        record = _CHECKSUM.pack(zlib.crc32(content)) + content
        self._memory[self._offset : self._offset + len(record)] = record

    def read(self) -> tuple[float, ...] | None:
        """Return the newest record; None where there is none yet, or it changes all the time."""
        start = self._offset
        for _ in range(_ATTEMPTS):
            record = self._memory[start : start + _CHECKSUM.size + self._struct.size]
            content = record[_CHECKSUM.size :]
            if zlib.crc32(content) == _CHECKSUM.unpack_from(record)[0]:
                return self._struct.unpack(content)
        return None


@dataclass(frozen=True)
class CameraPlan:
    """One camera to draw."""

    role: str
    path: str
    width: int
    height: int
    rate_hz: float


@dataclass(frozen=True)
class TablePlan:
    """What the table's process is started with."""

    seed: int
    cameras: tuple[CameraPlan, ...] = ()
    judge: str | None = None


@dataclass(frozen=True)
class Push:
    """What one motor is to do."""

    set_point: float
    """Degrees; percent for the gripper."""
    stiffness: float
    """Of the nominal position gain; 0: free."""
    damping: float
    """Of the nominal velocity gain."""
    limit: float
    """Greatest torque as a share of the motor's."""


@dataclass(frozen=True)
class Commands:
    """From the servos to the table."""

    epoch: int
    """Of the state that they answer; the table ignores those of an earlier one."""
    stalled: bool
    """Cameras show nothing new."""
    drop_probability: float
    """Of a camera's frame."""
    pushes: tuple[Push, ...]


@dataclass(frozen=True)
class State:
    """From the table to the servos."""

    epoch: int
    """Counts how often the arm was picked up and put elsewhere."""
    positions: tuple[float, ...]
    """Degrees; percent for the gripper."""
    velocities: tuple[float, ...]
    """The same per second."""
    loads: tuple[float, ...]
    """Torque as a share of the motor's greatest, -1..1."""


class Exchange:
    """Both directions, in a piece of memory that a file descriptor names."""

    def __init__(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, 2 * _RECORD_BYTES)
        self._commands = Mailbox(memory, 0, 3 + 4 * JOINT_COUNT)
        self._state = Mailbox(memory, _RECORD_BYTES, 1 + 3 * JOINT_COUNT)

    @staticmethod
    def allocate() -> int:
        """Return the descriptor of new memory for `Exchange`."""
        descriptor = os.memfd_create("molmoact2-so101")
        os.ftruncate(descriptor, 2 * _RECORD_BYTES)
        return descriptor

    def put_commands(self, commands: Commands) -> None:
        """Say what the motors do now."""
        values: list[float] = [commands.epoch, commands.stalled, commands.drop_probability]
        for push in commands.pushes:
            values += (push.set_point, push.stiffness, push.damping, push.limit)
        self._commands.write(values)

    def commands(self) -> Commands | None:
        """Return what the motors do now."""
        values = self._commands.read()
        if values is None:
            return None
        pushes = tuple(Push(*values[at : at + 4]) for at in range(3, len(values), 4))
        return Commands(int(values[0]), bool(values[1]), values[2], pushes)

    def put_state(self, state: State) -> None:
        """Say where the arm is now."""
        self._state.write((state.epoch, *state.positions, *state.velocities, *state.loads))

    def state(self) -> State | None:
        """Return where the arm is now."""
        values = self._state.read()
        if values is None:
            return None
        joints = [values[1 + n * JOINT_COUNT : 1 + (n + 1) * JOINT_COUNT] for n in range(3)]
        return State(int(values[0]), *joints)
