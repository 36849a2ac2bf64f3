"""The Franka hand on its own port: homing, move, grasp, stop, and a stream of its state. Both arms have version 3."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from molmoact2_emulators.fci_wire import CONNECT_REQUEST

HAND_PORT = 1338
HAND_VERSION = 3
HEADER = struct.Struct("<HII")
"""Command, id, size of the whole message."""
CONNECT_ANSWER = struct.Struct("<HH")
GRASP_REQUEST = struct.Struct("<5d")
"""Width, tolerance inwards, tolerance outwards, speed, force."""
MOVE_REQUEST = struct.Struct("<2d")
"""Width, speed."""
STATE = struct.Struct("<Idd?H")
"""Count, width, greatest width, whether it holds something, temperature in degrees Celsius."""
MAX_WIDTH = 0.08
CONNECT, HOMING, GRASP, MOVE, STOP = range(5)
SUCCESS, FAILED, UNSUCCESSFUL, ABORTED = range(4)
_INCOMPATIBLE = 1  # in the answer to CONNECT
_MAX_SPEED = 0.1  # m/s
_ON_TARGET = 1e-5
_TEMPERATURE = 35


@dataclass
class _Task:
    command: int
    command_id: int
    targets: list[float]
    speed: float
    within: tuple[float, float] | None = None
    """Of the width at which a grasp counts."""


class EmulatedHand:
    """Two fingers that move at the speed asked for, and stop at what lies between them."""

    def __init__(self, object_width: float | None = None) -> None:
        """``object_width`` (m): of something between the fingers; None: nothing."""
        self.width = MAX_WIDTH / 2
        self.grasped = False
        self._object = object_width
        self._task: _Task | None = None
        self._count = 0

    def handle(self, command: int, command_id: int, payload: bytes) -> list[bytes]:
        """Take one message; returns the answers that are due now."""
        if command == CONNECT and len(payload) == CONNECT_REQUEST.size:
            version, _ = CONNECT_REQUEST.unpack(payload)
            status = SUCCESS if version == HAND_VERSION else _INCOMPATIBLE
            return [_message(command, command_id, CONNECT_ANSWER.pack(status, HAND_VERSION))]
        if command == STOP:
            return [*self._abort(), _status(command, command_id, SUCCESS)]
        if command == HOMING:
            return self._begin(_Task(command, command_id, [0.0, MAX_WIDTH], _MAX_SPEED))
        if command == MOVE and len(payload) == MOVE_REQUEST.size:
            width, speed = MOVE_REQUEST.unpack(payload)
            return self._begin(_Task(command, command_id, [width], speed))
        if command == GRASP and len(payload) == GRASP_REQUEST.size:
            width, inwards, outwards, speed, _ = GRASP_REQUEST.unpack(payload)
            return self._begin(_Task(command, command_id, [0.0], speed, (width - inwards, width + outwards)))
        return [_status(command, command_id, FAILED)]

    def step(self, seconds: float) -> list[bytes]:
        """Move for that long; returns the answer of a command that came to its end."""
        task = self._task
        if task is None:
            return []
        target = task.targets[0]
        reach = task.speed * seconds
        floor = self._object if self._object is not None and self.width >= self._object else 0.0
        wanted = max(target, floor)
        self.width += min(max(wanted - self.width, -reach), reach)
        if abs(self.width - wanted) > _ON_TARGET:
            return []
        task.targets.pop(0)
        if task.targets and (task.command == HOMING or wanted == target):
            return []
        return self._end(task, blocked=wanted > target)

    def forget(self) -> None:
        """The client is gone: fingers stop, nobody is answered."""
        self._task = None

    def state(self) -> bytes:
        """Return the next datagram."""
        self._count += 1
        return STATE.pack(self._count, self.width, MAX_WIDTH, self.grasped, _TEMPERATURE)

    def _begin(self, task: _Task) -> list[bytes]:
        answers = self._abort()
        width_ok = all(0.0 <= target <= MAX_WIDTH for target in task.targets)
        if not width_ok or not 0.0 < task.speed <= 2 * _MAX_SPEED:
            return [*answers, _status(task.command, task.command_id, FAILED)]
        self.grasped = False
        self._task = task
        return answers

    def _abort(self) -> list[bytes]:
        task, self._task = self._task, None
        return [] if task is None else [_status(task.command, task.command_id, ABORTED)]

    def _end(self, task: _Task, blocked: bool) -> list[bytes]:
        self._task = None
        status = SUCCESS
        if task.within is not None:
            self.grasped = task.within[0] <= self.width <= task.within[1]
            status = SUCCESS if self.grasped else UNSUCCESSFUL
        elif blocked and task.command == MOVE:
            status = UNSUCCESSFUL
        return [_status(task.command, task.command_id, status)]


def _status(command: int, command_id: int, status: int) -> bytes:
    return _message(command, command_id, struct.pack("<H", status))


def _message(command: int, command_id: int, payload: bytes) -> bytes:
    return HEADER.pack(command, command_id, HEADER.size + len(payload)) + payload
