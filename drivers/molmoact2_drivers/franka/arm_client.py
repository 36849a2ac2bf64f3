"""The control process's end of the arm's process: starts it, asks it, sees whether it lives, kills it when it hangs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from molmoact2_drivers.franka.arm_memory import ArmMemory, ArmState
from molmoact2_edge.errors import RobotError

MESSAGE_MAX = 1 << 16
"""Bytes of a packet between the two processes."""
_START_TIMEOUT_S = 20.0
_ANSWER_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 1.0
# libfranka gives up after one second without a state and says why; a process that is silent for longer hangs.
_SILENCE_NS = 2_000_000_000
_SILENT_REQUESTS = ("configure", "recover")  # no state is read while the arm works on them


@dataclass(frozen=True)
class ArmSettings:
    """What the arm's process needs to know."""

    address: str
    arm: str
    """A key of `arm_limits.ARMS`."""
    target_period_s: float
    """Between two targets."""
    impedance: tuple[float, ...] | None
    """Joint stiffness, Nm/rad; None: the arm's own."""
    collision: tuple[tuple[float, ...], tuple[float, ...]]
    """Joint torques (7, Nm) and forces at the hand (6, N and Nm) from which on a contact is a collision."""
    enforce_realtime: bool
    """Refuse to run on a kernel that is no real-time kernel."""


class ArmClient:
    """One run of the arm's process. `start` and `poll` belong to one thread, the other methods to any."""

    def __init__(self, settings: ArmSettings) -> None:
        self._settings = settings
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._events: list[str] = []
        self._lost: str | None = None
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel, self._far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        self._descriptor = ArmMemory.create()
        self._memory = ArmMemory(self._descriptor)
        self._started_ns = 0
        self._may_be_silent = False

    def start(self) -> None:
        """Start the process; it ends with the thread that calls this."""
        far_end = self._far_end.fileno()
        command = [sys.executable, "-m", "molmoact2_drivers.franka.arm_process"]
        arguments = [
            "--socket",
            f"{far_end}",
            "--memory",
            f"{self._descriptor}",
            "--parent",
            f"{os.getpid()}",
        ]
        self._started_ns = time.monotonic_ns()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, fixed arguments
            [*command, *arguments],
            pass_fds=(far_end, self._descriptor),
            stdin=subprocess.DEVNULL,
        )
        self._far_end.close()
        self._channel.send(json.dumps(asdict(self._settings)).encode())

    @property
    def pid(self) -> int | None:
        """The process; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def lost(self) -> str | None:
        """Why the process is of no use any more; None while it is."""
        return self._lost

    def poll(self) -> list[str]:
        """Hear what the process says and see whether it lives; returns the faults that it told of."""
        self._hear()
        if self._lost is None and self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._hear()
                self._lose(f"the arm's process ended with code {code}")
            else:
                self._judge_silence()
        events, self._events = self._events, []
        return events

    def wait_ready(self) -> None:
        """Wait for the first state, while another thread polls.

        Raises:
            RobotError: the arm cannot be reached.
        """
        give_up = time.monotonic() + _START_TIMEOUT_S
        while not self._ready and self._lost is None and time.monotonic() < give_up:
            time.sleep(0.002)
        if self._lost is None and not self._ready:
            self._lose(f"the arm did not answer within {_START_TIMEOUT_S:g} s")
        if self._lost is not None:
            raise RobotError(self._lost)

    def ask(self, request: str) -> str | None:
        """Ask for something and wait for the answer, while another thread polls.

        Returns None when it is done, and the fault when the arm has one now.

        Raises:
            RobotError: it was refused, or the process is lost.
        """
        with self._asking:
            if self._lost is None:
                try:
                    self._channel.send(json.dumps({"do": request}).encode())
                except OSError as error:
                    raise RobotError(f"the arm's process does not take {request!r}: {error}") from error
            self._may_be_silent = request in _SILENT_REQUESTS
            try:
                answer = self._wait_for_answer(request)
            finally:
                self._may_be_silent = False
        if "error" in answer:
            raise RobotError(str(answer["error"]))
        return answer.get("fault")

    def read(self) -> ArmState | None:
        """Return the newest state; None before the first."""
        return self._memory.read_state()

    def aim(self, positions: tuple[float, ...], time_ns: int) -> None:
        """Write a target (7,) in rad. One thread at a time."""
        self._memory.write_target(time_ns, positions)

    def end(self) -> None:
        """End the process, with force where it does not listen. The arm brakes by itself when its client is gone."""
        self._lose("the arm is disconnected")
        process = self._process
        with contextlib.suppress(OSError):  # it is closed already
            self._channel.shutdown(socket.SHUT_RDWR)
        if process is not None:
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Give everything back, once nobody uses this object any more."""
        self.end()
        self._channel.close()
        self._far_end.close()
        self._memory.close()
        os.close(self._descriptor)

    def _wait_for_answer(self, request: str) -> dict[str, Any]:
        give_up = time.monotonic() + _ANSWER_TIMEOUT_S
        while self._lost is None and time.monotonic() < give_up:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=0.01)
        if self._lost is None:
            self._lose(f"the arm's process did not answer {request!r} within {_ANSWER_TIMEOUT_S:g} s")
        raise RobotError(self._lost)

    def _hear(self) -> None:
        while True:
            try:
                data = self._channel.recv(MESSAGE_MAX)
            except (BlockingIOError, OSError):
                return
            if not data:
                return
            message = json.loads(data)
            event = message.pop("event")
            if event == "answer":
                self._answers.put(message)
            elif event == "ready":
                self._ready = True
            elif event == "fault":
                self._events.append(str(message["error"]))
            elif event == "lost":
                self._lose(str(message["error"]))

    def _judge_silence(self) -> None:
        if self._may_be_silent:
            return
        state = self.read()
        newest_ns = self._started_ns + round(_START_TIMEOUT_S * 1e9) if state is None else state.time_ns
        if time.monotonic_ns() - newest_ns > _SILENCE_NS:
            self._lose(f"the arm's process hung for {_SILENCE_NS * 1e-9:g} s and was killed")
            assert self._process is not None
            self._process.kill()

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
