"""The judge of an emulated table: its emulator sets the scene and says how an episode ended, over a local socket.

One JSON object a line, one JSON answer a line. Nothing of the task is known on this side of it.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmoact2_edge.errors import InputError, RobotError

_ANSWER_S = 30.0  # drawing a scene takes a moment; an emulator that says nothing for so long is gone


@dataclass(frozen=True)
class Judged:
    """How an episode stands."""

    done: bool
    success: bool
    reason: str


class TableJudge:
    """A connection to the emulator's judge. One thread uses it."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            RobotError: nobody listens at ``path``.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_S)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise RobotError(
                f"no judge at {path}: {error}; start the emulator with --judge {path} first"
            ) from error
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def reset(self, seed: int, task: str | None) -> str:
        """Draw the scene of a seed, rest the arm at its start; returns the instruction.

        Raises:
            InputError: the table cannot judge ``task``. RobotError: no answer.
        """
        request: dict[str, Any] = {"do": "reset", "seed": seed}
        if task is not None:
            request["task"] = task
        answer = self._ask(request)
        if not answer.get("ok"):
            raise InputError(f"the judge refuses this episode: {answer.get('error')}")
        return str(answer["instruction"])

    def outcome(self) -> Judged:
        """How the episode stands."""
        answer = self._require({"do": "outcome"})
        return Judged(bool(answer["done"]), bool(answer["success"]), str(answer["reason"]))

    def put(self, positions: list[float]) -> None:
        """Put the arm somewhere at once; degrees, the gripper 0..100."""
        self._require({"do": "pose", "positions": positions})

    def state(self) -> dict[str, Any]:
        """The arm as its physics have it, whatever the bus says."""
        return self._require({"do": "state"})

    def facts(self) -> dict[str, Any]:
        """What the emulator says about itself."""
        try:
            return {"simulated_time_lost_s": round(float(self.state()["slipped_s"]), 3)}
        except RobotError as error:
            return {"lost": str(error)}

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._answers.close()
            self._socket.close()

    def _require(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._ask(request)
        if not answer.get("ok"):
            raise RobotError(f"the judge at {self._path} answers {answer.get('error')!r} to {request['do']}")
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._answers.readline()
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise RobotError(f"the judge at {self._path} does not answer: {error}") from error
        if not isinstance(answer, dict):
            raise RobotError(f"the judge at {self._path} answers {answer!r}, where an object was expected")
        return answer
