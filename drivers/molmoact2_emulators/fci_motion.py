"""The emulated arm's body: it takes one command a millisecond, judges it as the real controller does, and moves.

The judgement is made on the commands, which are float64, and not on the state that clients see, which version 10 rounds
to float32. A step that breaks a limit of the first or second difference is a discontinuity, named after what the client
commands: a jump of `q_c` is one of velocity, a jump of `dq_c` one of acceleration. It is reported before a limit of
velocity or position.
"""

from __future__ import annotations

import enum
import math

from molmoact2_emulators.franka_arm import READY_POSE, ArmModel, Vector

PERIOD_S = 0.001
JOINTS = 7
_START_TOLERANCE = 0.1  # rad from q_d to a motion's first q_c
# Clients build commands on a state that is rounded to float32: 1e-7 rad is 0.1 rad/s^2 and 100 rad/s^3.
_ACCELERATION_MARGIN = 1.05
_JERK_MARGIN = 1.3
_VELOCITY_MARGIN = 0.01  # rad/s
_POSITION_MARGIN = 1e-4  # rad
_MEASURED_VELOCITY_MARGIN = 0.1  # rad/s
_TORQUE_RATE_MARGIN = 1.01
_STIFFNESS = 80.0  # rad/s: how fast the arm follows q_d
_ZERO: Vector = (0.0,) * JOINTS


class Drive(enum.Enum):
    """What moves the joints."""

    HOLD = "hold"
    POSITION = "position"
    VELOCITY = "velocity"
    TORQUE = "torque"


class ArmMotion:
    """Seven joints: `q`, `dq` measured, `q_d`, `dq_d`, `ddq_d` desired, `tau`, `tau_d` torques; seven numbers each."""

    def __init__(self, arm: ArmModel, pose: Vector = READY_POSE) -> None:
        self.arm = arm
        self.drive = Drive.HOLD
        self.q = pose
        self.dq = _ZERO
        self.q_d = self.q
        self.dq_d = _ZERO
        self.ddq_d = _ZERO
        self.tau_d = _ZERO
        self.tau = _ZERO
        self._first = True

    def begin(self, drive: Drive) -> None:
        """Start a motion, from where the arm is held."""
        self.drive = drive
        self._first = True
        self.tau_d = _ZERO

    def end(self) -> None:
        """Let the arm's own controller brake and hold."""
        if self.drive is Drive.TORQUE:
            self.q_d, self.dq_d = self.q, self.dq
        self.drive = Drive.HOLD
        self.tau_d = _ZERO

    def follow(self, values: Vector) -> str | None:
        """Move by one period with a command of what `drive` takes: positions, velocities or torques.

        Returns the name of the error that the command is, and does not follow it then.
        """
        if not all(map(math.isfinite, values)):
            return "joint_motion_generator_position_limits_violation"
        if self.drive is Drive.TORQUE:
            return self._torques(values)
        if self.drive is Drive.VELOCITY:
            dq_d = values
            q_d = tuple(q + v * PERIOD_S for q, v in zip(self.q_d, values, strict=True))
        else:
            q_d = values
            dq_d = tuple((new - old) / PERIOD_S for new, old in zip(values, self.q_d, strict=True))
        ddq_d = tuple((new - old) / PERIOD_S for new, old in zip(dq_d, self.dq_d, strict=True))
        error = self._judge(q_d, dq_d, ddq_d)
        if error is not None:
            return error
        self._first = False
        self.q_d, self.dq_d, self.ddq_d = q_d, dq_d, ddq_d
        self._track()
        return self._judge_measured()

    def extrapolate(self) -> str | None:
        """Move by one period without a command: acceleration goes on, or the last torque."""
        if self.drive is Drive.TORQUE:
            return self._torques(self.tau_d)
        self._desire(self.ddq_d)
        self._track()
        return self._judge_measured()

    def hold(self) -> None:
        """Move by one period without a motion: brake, then stand."""
        if any(self.dq_d):
            brakes = [
                -math.copysign(min(abs(v) / PERIOD_S, limit), v)
                for v, limit in zip(self.dq_d, self.arm.acceleration, strict=True)
            ]
            self._desire(tuple(brakes))
        else:
            self.ddq_d = _ZERO
        self._track()

    def at_rest(self) -> bool:
        """Whether the desired motion could end now without a discontinuity."""
        return all(
            abs(v) <= limit * _ACCELERATION_MARGIN * PERIOD_S
            for v, limit in zip(self.dq_d, self.arm.acceleration, strict=True)
        )

    def _desire(self, ddq_d: Vector) -> None:
        self.ddq_d = ddq_d
        self.dq_d = tuple(v + a * PERIOD_S for v, a in zip(self.dq_d, ddq_d, strict=True))
        self.q_d = tuple(q + v * PERIOD_S for q, v in zip(self.q_d, self.dq_d, strict=True))

    def _judge(self, q_d: Vector, dq_d: Vector, ddq_d: Vector) -> str | None:
        arm, velocity = self.arm, self.drive is Drive.VELOCITY
        if self._first and not velocity:
            away = max(abs(new - old) for new, old in zip(q_d, self.q_d, strict=True))
            if away > _START_TOLERANCE:
                return "joint_position_motion_generator_start_pose_invalid"
        for a, limit in zip(ddq_d, arm.acceleration, strict=True):
            if abs(a) > limit * _ACCELERATION_MARGIN:
                kind = "acceleration" if velocity else "velocity"
                return f"joint_motion_generator_{kind}_discontinuity"
        for new, old, jerk in zip(ddq_d, self.ddq_d, arm.jerk, strict=True):
            if abs(new - old) > jerk * _JERK_MARGIN * PERIOD_S:
                return "joint_motion_generator_acceleration_discontinuity"
        if self._too_fast(self.q_d, dq_d, _VELOCITY_MARGIN):
            return "joint_motion_generator_velocity_limits_violation"
        if self._outside(q_d):
            return "joint_motion_generator_position_limits_violation"
        return None

    def _torques(self, torques: Vector) -> str | None:
        arm = self.arm
        for new, old, rate in zip(torques, self.tau_d, arm.torque_rate, strict=True):
            if abs(new - old) > rate * _TORQUE_RATE_MARGIN * PERIOD_S:
                return "controller_torque_discontinuity"
        if any(abs(torque) > limit for torque, limit in zip(torques, arm.torque, strict=True)):
            return "tau_j_range_violation"
        self.tau_d = self.tau = torques
        self.dq = tuple(
            v + (torque - friction * v) / inertia * PERIOD_S
            for v, torque, friction, inertia in zip(self.dq, torques, arm.damping, arm.inertia, strict=True)
        )
        self.q = tuple(q + v * PERIOD_S for q, v in zip(self.q, self.dq, strict=True))
        self.q_d, self.dq_d, self.ddq_d = self.q, self.dq, _ZERO
        return self._judge_measured()

    def _track(self) -> None:
        if self.dq == self.dq_d and self.q == self.q_d:
            self.tau = _ZERO
            return
        pull = [
            _STIFFNESS * (_STIFFNESS * (q_d - q) + 2.0 * (v_d - v))
            for q_d, q, v_d, v in zip(self.q_d, self.q, self.dq_d, self.dq, strict=True)
        ]
        self.dq = tuple(v + a * PERIOD_S for v, a in zip(self.dq, pull, strict=True))
        self.q = tuple(q + v * PERIOD_S for q, v in zip(self.q, self.dq, strict=True))
        self.tau = tuple(inertia * a for inertia, a in zip(self.arm.inertia, pull, strict=True))

    def _judge_measured(self) -> str | None:
        if self._too_fast(self.q, self.dq, _MEASURED_VELOCITY_MARGIN):
            return "joint_velocity_violation"
        if self._outside(self.q):
            return "joint_position_limits_violation"
        return None

    def _too_fast(self, q: Vector, dq: Vector, margin: float) -> bool:
        fastest = self.arm.fastest
        return any(
            abs(v) > margin and abs(v) > fastest(joint, position, math.copysign(1.0, v)) + margin
            for joint, (position, v) in enumerate(zip(q, dq, strict=True))
        )

    def _outside(self, q: Vector) -> bool:
        arm, margin = self.arm, _POSITION_MARGIN
        return any(
            not low - margin <= position <= high + margin
            for position, low, high in zip(q, arm.position_min, arm.position_max, strict=True)
        )
