"""An arm that follows targets as they come, through the control loop and its safety gate, never past them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_drivers import LifeCycle, Robot, StopPolicy
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, JointLimits, Reason
from molmoact2_edge.errors import InputError, RobotError

Positions = NDArray[np.float64]

_TARGET_LIFE_S = 0.25
_REACH = 0.8  # of the gate's jump limit: the arm moves on while a target is asked for that it would refuse
_APPROACH_REACH = 0.99  # of the start distance
_FIRST_POSE_S = 3.0
_POLL_S = 0.005


@dataclass(frozen=True)
class ArmStatus:
    """The newest tick of the loop."""

    state: GateState
    reason: Reason
    measured: Positions
    """(joints,) in the joints' units."""
    command: Positions
    """(joints,) what the gate let through."""
    steps: int
    """Targets executed in this run of the loop; 0 on the way to the first one."""
    limited: tuple[str, ...]
    """Joints whose target a limit has changed."""


class GatedArm:
    """Streams targets to a robot; whoever stops asking makes it hold.

    A target is followed for 0.25 s; one that is not renewed by then is over, and the arm decelerates and holds. Targets
    farther away than the gate lets an arm jump are shortened towards the measured pose, so that the arm comes after at
    its velocity limit. The first target of a run is approached slowly and refused beyond ``start_distance``.

    As a context manager it activates the robot (CONFIGURED before) and ends with the configuration's stop policy.
    """

    def __init__(
        self,
        robot: Robot,
        config: RobotConfig,
        *,
        rate_hz: float | None = None,
        speed: float = 1.0,
        stop_policy: StopPolicy | None = None,
    ) -> None:
        """``rate_hz`` None is the configuration's; ``speed`` above 0 to 1 is a share of velocity and acceleration.

        Raises:
            InputError: a number is out of its range, or the configuration's joints are not the robot's.
        """
        if not 0.0 < speed <= 1.0:
            raise InputError(f"speed is a share of the velocity limits, above 0 to 1; got {speed:g}")
        names = robot.capabilities.joint_names
        if tuple(config.joints) != names:
            raise InputError(
                f"{robot.name} has the joints {', '.join(names)}; "
                f"configuration {config.name!r} has {', '.join(config.joints)}"
            )
        self.robot = robot
        self.joint_names = names
        self.limits = _at_speed(config.limits(), speed)
        self.start_distances = config.start_distances()
        self.stop_policy = StopPolicy(config.stop.pose) if stop_policy is None else stop_policy
        if self.stop_policy not in robot.capabilities.stop_policies:
            offered = ", ".join(sorted(policy.value for policy in robot.capabilities.stop_policies))
            raise InputError(f"{robot.name} cannot end with {self.stop_policy.value}; it offers {offered}")
        self.loop = self._build(config, config.loop.rate_hz if rate_hz is None else rate_hz)
        self._start: Positions | None = None  # where the arm stood when the run's first target came
        self._rows = max(2, math.ceil(_TARGET_LIFE_S * self.loop.rate_hz))

    def _build(self, config: RobotConfig, rate_hz: float) -> ControlLoop:
        loop = config.loop
        return ControlLoop(
            self.robot.port(),
            self.limits,
            rate_hz=rate_hz,
            mode="async",
            chunk_capacity=max(2, math.ceil(_TARGET_LIFE_S * rate_hz)),
            # Nobody looks through a camera here; what a target is made from may be as old as the target itself.
            watchdogs=replace(config.watchdog_settings(), cameras=(), chunk_age_max_s=_TARGET_LIFE_S),
            lost_writes_max=loop.lost_writes_max,
            silence_hold_s=max(loop.silence_hold_s, 2.0 / rate_hz),
            silence_fault_s=max(loop.silence_fault_s, 2.0 / rate_hz),
            start_speed=loop.start_speed,
            start_distance_max=self.start_distances,
            fifo_priority=loop.fifo_priority,
            lock_memory=loop.lock_memory,
            cpus=loop.cpus,
        )

    def __enter__(self) -> GatedArm:
        self.robot.activate()
        try:
            self.start()
        except BaseException:
            self.finish()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        except RobotError:
            # An arm that is gone cannot be stopped either; why it is gone says more.
            if error is None:
                raise

    def start(self) -> None:
        """Begin a run: the arm is held where it is until a target comes.

        Raises:
            RobotError: no pose came, or the arm stands outside its limits; says which joint, and what to do.
        """
        self._start = None
        self.loop.start()
        give_up = time.monotonic() + _FIRST_POSE_S
        while time.monotonic() < give_up:
            status = self.status()
            if status is not None and status.state is GateState.FAULT:
                raise RobotError(self._start_fault(status))
            if status is not None and self.loop.observation_at(time.monotonic_ns()) is not None:
                return
            if self.robot.fault is not None:
                break
            if self.loop.latched_stop is not Reason.NONE:
                return
            time.sleep(_POLL_S)
        raise RobotError(self.robot.fault or f"{self.robot.name} reported no pose within {_FIRST_POSE_S:g} s")

    def restart(self) -> None:
        """Decelerate, forget every target and hold; the next target is approached slowly, as the first."""
        self.loop.stop()
        if self.loop.latched_stop is Reason.NONE and self.robot.life_cycle is LifeCycle.ACTIVE:
            self.start()

    def follow(self, target: ArrayLike, seen_ns: int | None = None) -> bool:
        """Ask for a pose (joints,); ``seen_ns`` is when it was measured, for the record. False: not taken.

        A target is not taken while the loop has no pose yet, or when it was measured before this run.

        Raises:
            InputError: not a finite pose.
            RobotError: a run's first target is farther away than ``start_distance``.
        """
        wanted = np.asarray(target, dtype=np.float64)
        if wanted.shape != (len(self.joint_names),) or not np.isfinite(wanted).all():
            raise InputError(f"a target is {len(self.joint_names)} finite joint positions; got {target!r}")
        observation = self.loop.observation_at(time.monotonic_ns() if seen_ns is None else seen_ns)
        status = self.status()
        if observation is None or status is None:
            return False
        if status.steps > 0:
            reach = _REACH * self.limits.jump_max
            wanted = np.clip(wanted, status.measured - reach, status.measured + reach)
        else:
            wanted = self._on_the_way(wanted, status.command)
        self.loop.push(np.tile(wanted, (self._rows, 1)), observation)
        return True

    def too_far(self, target: ArrayLike, command: Positions) -> dict[str, float]:
        """Return the joints of a first target that are farther than allowed from ``command``, and how far."""
        # The gate moves a target into the limits before it is approached; only that way counts.
        first = np.clip(np.asarray(target), self.limits.position_min, self.limits.position_max)
        away = np.abs(first - command)
        return {
            name: float(distance)
            for name, distance, most in zip(self.joint_names, away, self.start_distances, strict=True)
            if distance > most
        }

    def _on_the_way(self, wanted: Positions, command: Positions) -> Positions:
        """A target of the approach: the gate refuses a run for good whose target wanders off too far from its start."""
        wanted = np.clip(wanted, self.limits.position_min, self.limits.position_max)
        if self._start is None:
            far = self.too_far(wanted, command)
            if far:
                raise RobotError(
                    "the first target is too far from where the arm is: "
                    + ", ".join(f"{name} by {distance:.0f}" for name, distance in far.items())
                    + "; nothing was moved. Bring the arm nearer to it"
                )
            self._start = command
        reach = _APPROACH_REACH * self.start_distances
        return np.clip(wanted, self._start - reach, self._start + reach)

    def status(self) -> ArmStatus | None:
        """The newest tick of the present run; None before its first."""
        record = self.loop.last_record()
        if record is None or record["run"] != self.loop.run:
            return None
        limited = record["limited_joints"]
        return ArmStatus(
            state=GateState(record["state"]),
            reason=Reason(record["reason"]),
            measured=record["measured"],
            command=record["command"],
            steps=record["step"],
            limited=tuple(name for index, name in enumerate(self.joint_names) if limited >> index & 1),
        )

    @property
    def fault(self) -> str | None:
        """Why it cannot go on; None as long as it can."""
        if self.robot.fault is not None:
            return self.robot.fault
        status = self.status()
        return status.reason.text if status is not None and status.state is GateState.FAULT else None

    @property
    def stopped(self) -> Reason | None:
        """Which stop was asked for, for good; None as long as there was none."""
        reason = self.loop.latched_stop
        return None if reason is Reason.NONE else reason

    def finish(self) -> None:
        """Decelerate to rest, then leave the motors as the stop policy wants them."""
        self.loop.stop()
        self.robot.stop(self.stop_policy)

    def _start_fault(self, status: ArmStatus) -> str:
        if status.reason is not Reason.START_OUTSIDE_LIMITS:
            return status.reason.text
        outside = [
            f"{name} stands at {value:.1f}, its limits are {low:g} to {high:g}"
            for name, value, low, high in zip(
                self.joint_names,
                status.measured,
                self.limits.position_min,
                self.limits.position_max,
                strict=True,
            )
            if not low <= value <= high
        ]
        return (
            f"the arm stands outside its limits, so nothing was moved: {'; '.join(outside)}. Switch the motors' power "
            "off, put these joints inside by hand and try again; where they look right, calibrate again"
        )


def _at_speed(limits: JointLimits, speed: float) -> JointLimits:
    return JointLimits(
        position_min=limits.position_min,
        position_max=limits.position_max,
        velocity_max=limits.velocity_max * speed,
        acceleration_max=limits.acceleration_max * speed,
        jump_max=limits.jump_max,
        jerk_max=limits.jerk_max,
    )
