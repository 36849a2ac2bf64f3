"""The judge's socket of the simulated table: new scenes, and whether the task is done.

One JSON object a line, and one a line in answer::

    {"do": "reset", "seed": 3}                         {"ok": true, "instruction": "touch the red block"}
    {"do": "reset", "seed": 3, "task": "touch ..."}    the same scene, judged by that task
    {"do": "outcome"}                                  {"ok": true, "done": false, "success": false, "reason": ...,
                                                        "time_s": ...}
    {"do": "pose", "positions": [six numbers]}         {"ok": true}
    {"do": "state"}                                    {"ok": true, "positions": ..., "velocities": ..., "time_s": ...,
                                                        "slipped_s": ..., "monotonic_ns": ...}
    anything else                                      {"ok": false, "error": ...}

After a reset and a pose the arm stands still where it was put; servos with torque on hold it there. ``slipped_s`` is by
how much simulated time has fallen behind. Positions are degrees, percent for the gripper.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from molmoact2_edge.errors import InputError, MolmoAct2Error
from molmoact2_edge.sim import World
from molmoact2_edge.sim.touch import Outcome
from molmoact2_emulators.accepting import AcceptPause
from molmoact2_emulators.so101_exchange import JOINT_COUNT

_REQUEST_BYTES = 65536


class Judged(Protocol):
    """The table, as the judge needs it."""

    @property
    def slipped_s(self) -> float:
        """By how much simulated time has fallen behind."""

    def world(self) -> AbstractContextManager[World]:
        """Lend the world."""

    def reset(self, seed: int, task: str | None) -> str:
        """Draw a scene; returns the instruction."""

    def pose(self, positions: Sequence[float]) -> None:
        """Put the arm elsewhere."""

    def outcome(self) -> tuple[Outcome, float]:
        """Return how the episode stands, and its time."""


class Judge:
    """Answers on the judge's socket."""

    def __init__(self, table: Judged, path: Path) -> None:
        """Listen.

        Raises:
            InputError: not at that path.
        """
        self._table = table
        self._path = path
        self.pause = AcceptPause(f"the judge at {path}")
        self._closed = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise InputError(f"{path}: no socket can be made here: {error}") from error
        threading.Thread(target=self._accept, name="judge", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._closed.is_set():
                    self.pause.begin(error)
                    self.pause.wait()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="judge-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rwb") as file:
            while line := file.readline(_REQUEST_BYTES):
                file.write(json.dumps(self.answer(line)).encode() + b"\n")
                file.flush()

    def answer(self, line: bytes) -> dict[str, Any]:
        """Do what one line asks."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise InputError(f"a request is a JSON object, got {line[:80]!r}")
            return {"ok": True, **self._do(request)}
        except (MolmoAct2Error, ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "reset", "seed": int(seed), **rest} if seed >= 0 and rest.keys() <= {"task"}:
                task = rest.get("task")
                if task is not None and not isinstance(task, str):
                    raise InputError(f"a task is text, got {task!r}")
                return {"instruction": self._table.reset(seed, task)}
            case {"do": "outcome"} if len(request) == 1:
                outcome, time_s = self._table.outcome()
                return {
                    "done": outcome.done,
                    "success": outcome.success,
                    "reason": outcome.reason,
                    "time_s": round(time_s, 3),
                }
            case {"do": "pose", "positions": [*positions]} if len(request) == 2:
                numbers = [float(position) for position in positions]
                if len(numbers) != JOINT_COUNT or not all(abs(number) < 1e4 for number in numbers):
                    raise InputError(f"a pose is six finite numbers, got {positions!r}")
                self._table.pose(numbers)
                return {}
            case {"do": "state"} if len(request) == 1:
                with self._table.world() as world:
                    return {
                        "positions": list(map(float, world.positions())),
                        "velocities": list(map(float, world.velocities())),
                        "time_s": round(world.time, 3),
                        "slipped_s": round(self._table.slipped_s, 3),
                        "monotonic_ns": time.monotonic_ns(),
                    }
        raise InputError(
            'a request is {"do": "reset", "seed": N, "task": TEXT or left out}, {"do": "outcome"}, '
            f'{{"do": "pose", "positions": [six numbers]}} or {{"do": "state"}}; got {json.dumps(request)[:200]}'
        )
