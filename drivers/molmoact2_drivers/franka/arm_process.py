"""The process that holds the arm's connection: reads it, moves it at 1 kHz, and may be killed at any time.

Started by :class:`molmoact2_drivers.franka.arm_client.ArmClient` as ``python -m molmoact2_drivers.franka.arm_process``.
libfranka may wait for its robot for ever once the TCP connection is closed, and it wants the processor for itself:
neither may happen in the control process. Requests and events are packets of JSON on a socket; states and targets are
in shared memory.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import socket
import time
from typing import Any

import numpy as np

from molmoact2_drivers.franka.arm_client import MESSAGE_MAX
from molmoact2_drivers.franka.arm_limits import ARMS
from molmoact2_drivers.franka.arm_memory import DAMPING, FOLLOWING, JOINTS, READING, ArmMemory, ArmState
from molmoact2_drivers.franka.interface import (
    FciError,
    FciInterface,
    FciState,
    Vector,
    describe,
    open_interface,
)
from molmoact2_drivers.franka.target_path import TargetPath
from molmoact2_edge.errors import MolmoAct2Error, RobotError

_PR_SET_PDEATHSIG = 1
_IDLE_MODES = (1, 2)  # idle, move: libfranka's RobotMode of an arm that takes a motion, or has one
_DAMPING = np.array([25.0, 25.0, 18.0, 18.0, 6.0, 5.0, 3.0])  # Nm s/rad
_TORQUE_STEP = 0.8  # Nm from one command to the next; the arm takes 1
_IDLE_CYCLES = 500  # in which the arm must be ready after a recovery
_ELAPSED_MAX_MS = 20  # between two states; the arm gives up after as many
_REST_CYCLES = 5000  # in which the arm comes to rest, or its motion is ended as it is

Request = dict[str, Any]


class ArmSession:
    """One connected arm: a state machine over what the control process asks for."""

    def __init__(
        self, channel: socket.socket, memory: ArmMemory, arm: FciInterface, settings: Request
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._arm = arm
        self._settings = settings
        self._path = TargetPath(ARMS[settings["arm"]], settings["target_period_s"])
        self._phase = READING
        self._taken = 0
        self._announced_mode = _IDLE_MODES[0]

    def serve(self) -> None:
        """Serve requests until the channel is closed. Raises FciError when the connection is lost."""
        self._read()
        self._say({"event": "ready"})
        request: Request | None = None
        while True:
            if request is None:
                request = self._request()
            if request is None:
                self._watch_mode(self._read())
            elif request["do"] == "end":
                return
            else:
                request = self._carry_out(request)

    def _carry_out(self, request: Request) -> Request | None:
        """Do what is asked and answer it; returns the request that ended a motion, if one did."""
        try:
            if request["do"] in ("follow", "damp"):
                return self._move(following=request["do"] == "follow")
            if request["do"] == "configure":
                self._arm.configure(self._settings["impedance"], self._settings["collision"])
                self._require_idle()
            elif request["do"] == "recover":
                self._arm.recover()
                self._require_idle()
            elif request["do"] != "rest":
                raise RobotError(f"the arm's process knows no request {request['do']!r}")
        except FciError as error:
            if error.lost:
                raise
            self._announced_mode = self._read().robot_mode
            self._say({"event": "answer", "fault": f"{error}"})
        except MolmoAct2Error as error:
            self._say({"event": "answer", "error": f"{error}"})
        else:
            self._say({"event": "answer"})
        return None

    def _require_idle(self) -> None:
        for _ in range(_IDLE_CYCLES):
            state = self._read()
            self._announced_mode = state.robot_mode
            if state.robot_mode in _IDLE_MODES:
                return
        raise FciError(describe(state))

    def _watch_mode(self, state: FciState) -> None:
        """Tell of a stop, a reflex or a hand on the arm that comes while no motion is under way."""
        if state.robot_mode != self._announced_mode:
            self._announced_mode = state.robot_mode
            if state.robot_mode not in _IDLE_MODES:
                self._say({"event": "fault", "error": describe(state)})

    def _move(self, *, following: bool) -> Request | None:
        """Follow targets, or give way braked, until another request comes, which is returned once the arm is at rest.

        A fault that comes after the first command is an event; one before it answers the request.
        """
        motion = _Motion(self, following=following)
        try:
            if following:
                self._arm.move_positions(motion.step)
            else:
                self._arm.move_torques(motion.step)
        except FciError as error:
            if error.lost or not motion.begun:
                raise
            self._announced_mode = self._read().robot_mode
            self._say({"event": "fault", "error": f"{error}"})
        finally:
            self._phase = READING
            gc.collect()  # a fault leaves cycles behind; now nothing moves that would wait
        return motion.pending

    def _read(self) -> FciState:
        state = self._arm.read()
        self._publish(state)
        return state

    def _publish(self, state: FciState) -> None:
        self._memory.write_state(
            ArmState(
                time_ns=time.monotonic_ns(),
                robot_time_ms=state.time_ms,
                phase=self._phase,
                robot_mode=state.robot_mode,
                target_sequence=self._taken,
                success_rate=state.success_rate,
                positions=state.positions,
                velocities=state.velocities,
                torques=state.torques,
                commanded=state.commanded,
            )
        )

    def _request(self) -> Request | None:
        try:
            data = self._channel.recv(MESSAGE_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not data:
            return {"do": "end"}
        request: Request = json.loads(data)
        return request

    def _say(self, message: Request) -> None:
        self._channel.send(json.dumps(message).encode())


class _Motion:
    """One motion of a session: `step` turns each state into a command."""

    def __init__(self, session: ArmSession, *, following: bool) -> None:
        self._session = session
        self._following = following
        self._path = session._path
        self._torque: Vector = np.zeros(JOINTS)
        self._cycles_left = _REST_CYCLES
        self._time_ms = 0
        self._success_rate = 0.0
        self.begun = False
        self.pending: Request | None = None

    def step(self, state: FciState) -> tuple[Vector, bool]:
        session = self._session
        session._phase = FOLLOWING if self._following else DAMPING
        session._publish(state)
        if not self.begun:
            self._begin(state)
        if self.pending is None:
            self.pending = session._request()
            if self.pending is not None:
                self._path.rest()
        else:
            self._cycles_left -= 1
        command = self._follow(state) if self._following else self._give_way(state)
        rested = not self._following or self._path.resting or self._cycles_left <= 0
        return command, self.pending is not None and rested

    def _begin(self, state: FciState) -> None:
        session = self._session
        self._time_ms = state.time_ms - 1
        if self._following:
            self._path.begin(np.array(state.commanded))
            # Targets from before this motion are not its own.
            target = session._memory.read_target()
            session._taken = 0 if target is None else target.sequence
        self.begun = True
        session._say({"event": "answer"})

    def _follow(self, state: FciState) -> Vector:
        session = self._session
        target = session._memory.read_target()
        if target is not None and target.sequence != session._taken:
            session._taken = target.sequence
            self._path.aim(np.array(target.positions))
        elapsed_ms = min(max(state.time_ms - self._time_ms, 1), _ELAPSED_MAX_MS)
        # Either a state was lost on the way here, or a command on the way there.
        lost = elapsed_ms > 1 or state.success_rate < self._success_rate
        self._time_ms, self._success_rate = state.time_ms, state.success_rate
        if not lost:
            return self._path.step()
        arm = (state.commanded, state.commanded_velocities, state.commanded_accelerations)
        position, velocity, acceleration = map(np.array, arm)
        return self._path.step(elapsed_ms, (position, velocity, acceleration))

    def _give_way(self, state: FciState) -> Vector:
        wanted = -_DAMPING * np.array(state.velocities)
        self._torque = self._torque + np.clip(wanted - self._torque, -_TORQUE_STEP, _TORQUE_STEP)
        return self._torque


def main() -> None:
    """Serve the socket and the memory that the parent passed."""
    parser = argparse.ArgumentParser(prog="molmoact2_drivers.franka.arm_process")
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a seqpacket socket")
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--parent", type=int, required=True, help="process id of the control process")
    arguments = parser.parse_args()
    # The terminal's Ctrl-C is the control process's: it brakes the arm first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arguments.parent:
        return
    channel = socket.socket(fileno=arguments.socket)
    memory = ArmMemory(arguments.memory)
    settings: Request = json.loads(channel.recv(MESSAGE_MAX))
    code = 0
    try:
        arm = open_interface(settings["arm"], settings["address"], settings["enforce_realtime"])
        # A collection would cost several milliseconds; the loop leaves no cycles behind.
        gc.collect()
        gc.disable()
        ArmSession(channel, memory, arm, settings).serve()
    except MolmoAct2Error as error:
        channel.send(json.dumps({"event": "lost", "error": f"{error}"}).encode())
        code = 1
    # The ends of libfranka's objects may wait for ever for a connection that is gone.
    os._exit(code)


if __name__ == "__main__":
    main()
