"""The emulated arm's controller: commands, modes, errors, one state a millisecond. It knows no socket and no clock."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from molmoact2_emulators.fci_motion import ArmMotion, Drive
from molmoact2_emulators.fci_wire import (
    CONNECT_ANSWER,
    CONNECT_REQUEST,
    ERRORS,
    MOVE_ASYNC,
    MOVE_REQUEST,
    SETTER_SIZES,
    Controller,
    FciVersion,
    Generator,
    RobotCommand,
    RobotMode,
    answer,
)
from molmoact2_emulators.franka_arm import (
    HAND_CENTRE,
    HAND_INERTIA,
    HAND_MASS,
    HAND_POSE,
    IDENTITY,
    READY_POSE,
    ArmModel,
    Pose,
    Vector,
    compose,
    flange_pose,
    from_matrix,
    matrix,
)
from molmoact2_emulators.franka_model import model_library
from molmoact2_emulators.franka_urdf import urdf

LOST_MAX = 20
"""Answers that may be missing in a row."""
_WINDOW = 100  # cycles over which the success rate is taken
_FIRST_COMMAND_CYCLES = 1000  # a client that began a motion and says nothing for longer is gone
_RECOVERY_CYCLES = 200
_POSES_KEPT = 8


@dataclass
class _Move:
    command_id: int
    drive: Drive
    generator: int
    controller: int
    cycles: int = 0
    armed: bool = False
    """The client has answered once: from then on its silence counts."""
    finishing: bool = False


class EmulatedArm:
    """One arm. `handle` takes what came over TCP, `step` ends a millisecond; both know nothing of sockets."""

    def __init__(self, arm: ArmModel, version: FciVersion, pose: Vector = READY_POSE) -> None:
        """``pose``: of the joints at the start, rad."""
        self.version = version
        self.motion = ArmMotion(arm, pose)
        self.mode = RobotMode.IDLE
        self._move: _Move | None = None
        self._recovery: tuple[int, int] | None = None  # id of the request, cycles left
        self._outbox: list[bytes] = []
        self._lost = 0
        self._success: deque[bool] = deque(maxlen=_WINDOW)
        self._successes = 0
        self._errors = [False] * len(ERRORS)
        self._reflex_reason = [False] * len(ERRORS)
        self._numbers = [0.0] * version.state.count
        self._tool: Pose = HAND_POSE
        self._put("F_T_NE", matrix(HAND_POSE))
        self._put("NE_T_EE", matrix(IDENTITY))
        self._put("EE_T_K", matrix(IDENTITY))
        self._put("F_T_EE", matrix(HAND_POSE))
        self._put("m_ee", (HAND_MASS,))
        self._put("I_ee", HAND_INERTIA)
        self._put("F_x_Cee", HAND_CENTRE)
        self._put("O_ddP_O", (0.0, 0.0, -9.81))
        self._poses: dict[Vector, Vector] = {}
        self._commands: dict[str, Callable[[int, bytes], bytes | None]] = {
            "connect": self._connect,
            "move": self._start_move,
            "stop_move": self._stop_move,
            "automatic_error_recovery": self._recover,
            "get_robot_model": lambda command_id, payload: b"\0" + urdf(arm).encode(),
            "load_model_library": self._load_model_library,
            "get_cartesian_limit": lambda command_id, payload: b"\2" + bytes(3 * 8 + 16 * 8 + 1),
            "set_ee_to_k": self._set_stiffness_frame,
            "set_ne_to_ee": self._set_end_effector,
            "set_load": self._set_load,
        }

    @property
    def expects_command(self) -> bool:
        """Whether a client controls the arm and owes an answer to every state."""
        return self._move is not None and self._move.armed and not self._move.finishing

    @property
    def moving(self) -> bool:
        """Whether a motion is under way."""
        return self._move is not None

    def handle(self, command: int, command_id: int, payload: bytes) -> None:
        """Take one request. Its answers go out after the next state, so that a client that has one sees its effect."""
        if command >= len(self.version.commands):
            return
        name = self.version.commands[command]
        handler = self._commands.get(name)
        if handler is not None:
            reply = handler(command_id, payload)
        else:
            fits = len(payload) == SETTER_SIZES[name]
            reply = self.version.status(name, "success" if fits else "invalid_argument")
        if reply is not None:
            self._outbox.append(answer(command, command_id, reply))

    def take_answers(self) -> bytes:
        """Return what is to be sent over TCP since the last time."""
        sent, self._outbox = b"".join(self._outbox), []
        return sent

    def step(self, command: RobotCommand | None) -> None:
        """One millisecond, with the client's answer to the last state; None: it did not come in time."""
        if self._recovery is not None:
            command_id, left = self._recovery
            self._recovery = (command_id, left - 1)
            if left <= 1:
                self._finish_recovery(command_id)
        if self._move is None:
            self.motion.hold()
            return
        error = self._follow(self._move, command)
        if error is not None:
            self.fail(error)

    def fail(self, error: str) -> None:
        """A reflex: the arm brakes, the motion is aborted, and nothing moves before a recovery."""
        place = ERRORS.index(error)
        self._errors[place] = True
        self._reflex_reason = [index == place for index in range(len(ERRORS))]
        self._end_move("reflex_aborted")
        self.mode = RobotMode.REFLEX

    def press_user_stop(self) -> None:
        """Somebody pressed the stop: the arm brakes and takes no motion until it is released."""
        self._end_move("emergency_aborted")
        self.mode = RobotMode.USER_STOPPED

    def release_user_stop(self) -> None:
        """The stop is released."""
        if self.mode == RobotMode.USER_STOPPED:
            self.mode = RobotMode.REFLEX if any(self._errors) else RobotMode.IDLE

    def abandon(self) -> None:
        """The client is gone."""
        self._end_move("aborted")
        self._recovery = None
        if self.mode == RobotMode.RECOVERY:
            self.mode = RobotMode.REFLEX
        elif self.mode == RobotMode.MOVE:
            self.mode = RobotMode.IDLE
        self._outbox.clear()

    def state(self, message_id: int) -> bytes:
        """Return the datagram of this millisecond."""
        motion, put = self.motion, self._put
        measured, desired = self._tool_pose(motion.q), self._tool_pose(motion.q_d)
        put("O_T_EE", measured)
        put("O_T_EE_d", desired)
        put("O_T_EE_c", desired)
        put("q", motion.q)
        put("theta", motion.q)
        put("dq", motion.dq)
        put("dtheta", motion.dq)
        put("q_d", motion.q_d)
        put("dq_d", motion.dq_d)
        put("ddq_d", motion.ddq_d)
        put("tau_J", motion.tau)
        put("tau_J_d", motion.tau_d)
        put("elbow", (motion.q[2], math.copysign(1.0, motion.q[3])))
        elbow = (motion.q_d[2], math.copysign(1.0, motion.q_d[3]))
        put("elbow_d", elbow)
        put("elbow_c", elbow)
        move = self._move
        generator = Generator.IDLE if move is None else move.generator
        controller = Controller.OTHER if move is None else move.controller
        rate = self._successes / len(self._success) if move is not None and self._success else 0.0
        modes = (generator, controller, self.mode)
        layout = self.version.state
        return layout.pack(message_id, self._numbers, modes, self._errors, self._reflex_reason, rate)

    def _put(self, name: str, values: Vector) -> None:
        self._numbers[self.version.state.places[name]] = values

    def _tool_pose(self, joints: Vector) -> Vector:
        """As a matrix; an arm that stands has the same as a millisecond ago."""
        known = self._poses.get(joints)
        if known is None:
            if len(self._poses) > _POSES_KEPT:
                self._poses.clear()
            known = self._poses[joints] = matrix(compose(flange_pose(joints), self._tool))
        return known

    def _count(self, success: bool) -> None:
        if len(self._success) == _WINDOW:
            self._successes -= self._success[0]
        self._success.append(success)
        self._successes += success

    def _follow(self, move: _Move, command: RobotCommand | None) -> str | None:
        move.cycles += 1
        if move.finishing:
            self._brake()
            return None
        if command is None:
            if not move.armed:
                self.motion.hold()
                return "communication_constraints_violation" if move.cycles > _FIRST_COMMAND_CYCLES else None
            self._count(False)
            self._lost += 1
            return (
                "communication_constraints_violation" if self._lost > LOST_MAX else self.motion.extrapolate()
            )
        move.armed = True
        self._count(True)
        self._lost = 0
        if command.motion_finished or (move.drive is Drive.TORQUE and command.torque_finished):
            return self._finish(move)
        if move.drive is Drive.TORQUE:
            return self.motion.follow(command.tau_d)
        return self.motion.follow(command.q_c if move.drive is Drive.POSITION else command.dq_c)

    def _finish(self, move: _Move) -> str | None:
        if move.drive is not Drive.TORQUE and not self.motion.at_rest():
            kind = "acceleration" if move.drive is Drive.VELOCITY else "velocity"
            return f"joint_motion_generator_{kind}_discontinuity"
        # Torques may end at any speed: the motion is over once the arm has braked.
        self.motion.end()
        move.finishing = True
        self._brake()
        return None

    def _brake(self) -> None:
        self.motion.hold()
        if not any(self.motion.dq_d):
            self._end_move("success")
            self.mode = RobotMode.IDLE

    def _end_move(self, status: str) -> None:
        if self._move is not None:
            number = self.version.commands.index("move")
            self._outbox.append(answer(number, self._move.command_id, self.version.status("move", status)))
            self._move = None
        self.motion.end()

    def _connect(self, command_id: int, payload: bytes) -> bytes:
        version = CONNECT_REQUEST.unpack(payload)[0] if len(payload) == CONNECT_REQUEST.size else 0
        return CONNECT_ANSWER.pack(int(version != self.version.number), self.version.number)

    def _start_move(self, command_id: int, payload: bytes) -> bytes:
        if self.mode != RobotMode.IDLE or self._move is not None:
            return self.version.status("move", "not_possible")
        if len(payload) not in self.version.move_sizes:
            return self.version.status("move", "invalid_argument")
        controller, generator = MOVE_REQUEST.unpack_from(payload)[:2]
        asynchronous = (
            len(payload) > MOVE_REQUEST.size and MOVE_ASYNC.unpack_from(payload, MOVE_REQUEST.size)[0]
        )
        drive = {0: Drive.POSITION, 1: Drive.VELOCITY, 4: Drive.TORQUE}.get(generator)
        if controller == Controller.EXTERNAL:
            # With a motion generator beside it, the torques are the client's answer to its own path.
            drive = Drive.TORQUE if drive is not None else None
        elif generator == 4:
            drive = None
        if drive is None or controller > Controller.EXTERNAL or asynchronous:
            return self.version.status("move", "invalid_argument")
        self._move = _Move(command_id, drive, generator + 1, controller)
        self._reflex_reason = [False] * len(ERRORS)
        self._success.clear()
        self._successes = 0
        self._lost = 0
        self.motion.begin(drive)
        self.mode = RobotMode.MOVE
        return self.version.status("move", "motion_started")

    def _stop_move(self, command_id: int, payload: bytes) -> bytes:
        if self._move is not None:
            self._end_move("preempted")
            self.mode = RobotMode.IDLE
        return self.version.status("stop_move", "success")

    def _recover(self, command_id: int, payload: bytes) -> bytes | None:
        name = "automatic_error_recovery"
        if self.mode == RobotMode.USER_STOPPED:
            return self.version.status(name, "emergency_aborted")
        if self._move is not None or self._recovery is not None:
            return self.version.status(name, "not_possible")
        if self.mode == RobotMode.IDLE:
            return self.version.status(name, "success")
        self.mode = RobotMode.RECOVERY
        self._recovery = (command_id, _RECOVERY_CYCLES)
        return None

    def _finish_recovery(self, command_id: int) -> None:
        name = "automatic_error_recovery"
        self._recovery = None
        status = "emergency_aborted"
        if self.mode == RobotMode.RECOVERY:
            self._errors = [False] * len(ERRORS)
            self.mode = RobotMode.IDLE
            status = "success"
        number = self.version.commands.index(name)
        self._outbox.append(answer(number, command_id, self.version.status(name, status)))

    def _load_model_library(self, command_id: int, payload: bytes) -> bytes:
        library = model_library(payload)
        return b"\1" if library is None else b"\0" + library

    def _set_stiffness_frame(self, command_id: int, payload: bytes) -> bytes:
        return self._set("set_ee_to_k", payload, ("EE_T_K",))

    def _set_end_effector(self, command_id: int, payload: bytes) -> bytes:
        status = self._set("set_ne_to_ee", payload, ("NE_T_EE",))
        places = self.version.state.places
        self._tool = compose(HAND_POSE, from_matrix(tuple(self._numbers[places["NE_T_EE"]])))
        self._put("F_T_EE", matrix(self._tool))
        self._poses.clear()
        return status

    def _set_load(self, command_id: int, payload: bytes) -> bytes:
        return self._set("set_load", payload, ("m_load", "F_x_Cload", "I_load"))

    def _set(self, command: str, payload: bytes, fields: tuple[str, ...]) -> bytes:
        if len(payload) != SETTER_SIZES[command]:
            return self.version.status(command, "invalid_argument")
        values = struct.unpack(f"<{len(payload) // 8}d", payload)
        begin = 0
        for field in fields:
            place = self.version.state.places[field]
            count = place.stop - place.start
            self._put(field, values[begin : begin + count])
            begin += count
        return self.version.status(command, "success")
