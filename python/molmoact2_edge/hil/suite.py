"""The checks of an arm that need no fault: who it is, how fast its bus is, how it follows, what the gate keeps from it,
and how it stops. On a real arm each motion is small and slow.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmoact2_drivers import JointUnit, Measurement, StopPolicy
from molmoact2_edge.control import ControlLoop, GateState, JointLimits, Reason, StopMonitor, TickRecord
from molmoact2_edge.hil.arm import ArmUnderTest, wait_for
from molmoact2_edge.hil.checks import Check, Checklist
from molmoact2_edge.hil.motion import Motion, following, room, stand, sway
from molmoact2_edge.profile.ticks import histogram, spread
from molmoact2_edge.runtime.hardware_fit import unmeasured_levels
from molmoact2_edge.runtime.interruption import interruptible

Poses = npt.NDArray[np.float64]

_START_S = 10.0
_REST_S = 5.0
_POLL_S = 0.002
_HELD_S = 0.5
_HELD_ERROR = 5.0  # units by which an arm may sag once its motors hold by themselves
_BAND = 3.0  # half the width of the narrow position limits, units
_BEYOND = 4.0  # how far beyond them is asked for
_STEP = 8.0  # of a target that jumps within the jump limit


@dataclass(frozen=True)
class SuiteSettings:
    """How much is done."""

    rates_hz: tuple[float, ...] = (50.0, 100.0, 200.0)
    seconds: float = 3.0
    """For each rate, and for each joint's tracking."""
    amplitude: float = 10.0
    """Of the slow motion of each joint, in its unit: 10 on an emulated arm, 5 on a real one."""
    speed: float = 1.0
    """Share of the velocity limits: 1 on an emulated arm, 0.25 on a real one."""
    lag_max_s: float = 0.4
    following_error_max: float = 5.0


class Suite:
    """The checks of one arm, in their order."""

    def __init__(self, arm: ArmUnderTest, checklist: Checklist, settings: SuiteSettings) -> None:
        self.arm = arm
        self.checklist = checklist
        self.settings = settings
        self.names = list(arm.config.joints)
        self.limits = _at_speed(arm.config.limits(), settings.speed)

    def identification(self) -> None:
        """Nothing moves and no motor is switched on."""
        arm, capabilities = self.arm, self.arm.robot.capabilities
        with self.checklist.check("identification", "joints") as check:
            check.figures.update(
                robot=arm.robot.name,
                joints={
                    joint.name: {
                        "unit": joint.unit.value,
                        "lower": round(joint.lower, 3),
                        "upper": round(joint.upper, 3),
                        "velocity_max": round(joint.velocity_max, 3),
                    }
                    for joint in capabilities.joints
                },
                command_rate_max_hz=capabilities.command_rate_max_hz,
                measures=sorted(kind.value for kind in capabilities.measures),
                stop_policies=sorted(policy.value for policy in capabilities.stop_policies),
            )
            check.require(
                tuple(self.names) == capabilities.joint_names, "its joints are not the configuration's"
            )
            check.require(
                all(joint.lower < joint.upper for joint in capabilities.joints), "a joint has no range"
            )
        with self.checklist.check("identification", "pose") as check:
            state = arm.state()
            age_ms = state.age_ns(time.monotonic_ns()) * 1e-6
            pose = np.asarray(state.positions)
            check.figures.update(
                pose=dict(zip(self.names, np.round(pose, 3).tolist(), strict=True)), age_ms=round(age_ms, 3)
            )
            check.require(bool(np.isfinite(pose).all()), "a position is not a number")
            check.require(0.0 <= age_ms < 1000.0, f"the pose is {age_ms:.0f} ms old")
            for joint, value in zip(capabilities.joints, pose.tolist(), strict=True):
                slack = 2.0 if joint.unit is JointUnit.DEGREES else 5.0
                check.require(
                    joint.lower - slack <= value <= joint.upper + slack,
                    f"{joint.name} stands at {value:.1f}, outside {joint.lower:.1f} to {joint.upper:.1f}",
                )
            for kind, values in (
                (Measurement.TEMPERATURE, state.temperatures),
                (Measurement.CURRENT, state.currents),
                (Measurement.VELOCITY, state.velocities),
            ):
                if kind in capabilities.measures:
                    # Not every joint needs the sensor: a hand may tell none.
                    told = values is not None and bool(np.isfinite(values).any())
                    check.require(told, f"it measures {kind.value}, but tells none")
        with self.checklist.check("identification", "levels that are watched") as check:
            check.figures["unmeasured"] = unmeasured_levels(arm.config, capabilities)

    def timing(self, rate_hz: float) -> None:
        """Hold the arm at a rate: what the bus needs, and what the loop makes of it."""
        with self.checklist.check("timing", f"{rate_hz:g} Hz") as check:
            fastest = self.arm.robot.capabilities.command_rate_max_hz
            if rate_hz > fastest:
                check.skip(f"the robot takes at most {fastest:g} commands a second")
            loop = self.arm.loop(rate_hz)
            with self.arm.running(loop):
                wait_for(loop, GateState.HOLDING, _START_S)
                first = loop.ticks
                time.sleep(self.settings.seconds)
                records = [r for r in loop.records().records if r["tick"] > first + 1]
            self._timing(check, loop, records, rate_hz)

    @staticmethod
    def _timing(check: Check, loop: ControlLoop, records: list[TickRecord], rate_hz: float) -> None:
        period_ns = 1e9 / rate_hz
        bus = np.array([record["read_ns"] + record["write_ns"] for record in records])
        reads = np.array([record["read_ns"] for record in records])
        periods = np.array([record["period_ns"] for record in records])
        ages = np.array(
            [record["wakeup_ns"] + record["read_ns"] - record["measured_ns"] for record in records]
        )
        reasons = Counter(record["reason"] for record in records)
        statistics = loop.statistics()
        check.figures.update(
            rate_hz=rate_hz,
            ticks=len(records),
            period=spread(periods),
            period_error=spread(np.abs(periods - round(period_ns))),
            round_trip=spread(reads),
            write=spread(np.array([record["write_ns"] for record in records])),
            bus=spread(bus),
            state_age=spread(ages),
            round_trip_histogram=histogram(reads),
            in_time_share=round(float((bus <= period_ns).mean()), 4),
            read_failures=statistics["read_failures"],
            write_failures=statistics["write_failures"],
            reasons=dict(reasons),
        )
        check.require(
            bool(np.median(bus) < period_ns),
            f"the bus needs {np.median(bus) * 1e-6:.2f} ms, the period is {period_ns * 1e-6:.2f} ms",
        )
        held = sum(reasons[reason] for reason in ("state_stale", "bus_write_failed", "state_lost"))
        check.require(held < 0.02 * len(records), f"{held} of {len(records)} ticks had no pose or no bus")
        check.require(statistics["state_ticks"]["fault"] == 0, "the loop came to a fault")

    def tracking(self, joint: str) -> None:
        """Move one joint slowly through the gate, and compare."""
        with self.checklist.check("tracking", joint) as check:
            index, period_s = self.names.index(joint), self.settings.seconds
            loop = self.arm.loop(limits=self.limits)
            pose = self.arm.pose()
            only = np.zeros(len(self.names))
            only[index] = self.settings.amplitude
            amplitudes = room(pose, self.limits.position_min, self.limits.position_max, only)
            with self.arm.running(loop, sway(pose, amplitudes, 1.0 / period_s)):
                first = wait_for(loop, GateState.RUNNING, _START_S)["tick"]
                time.sleep(period_s + 0.5)
                records = [r for r in loop.records().records if r["tick"] > first]
            states = Counter(record["state"] for record in records)
            reasons = Counter(r["reason"] for r in records if r["state"] != GateState.RUNNING)
            found = following(records, index)
            check.figures.update(
                lag_ms=round(found.lag_s * 1e3, 1),
                error_rms=found.error_rms,
                error_max=found.error_max,
                moved=found.range,
                states=dict(states),
                reasons=dict(reasons),
                plot=_plot(records, index),
            )
            asked = float(abs(amplitudes[index]))
            held = f"; it held, mostly for {reasons.most_common(1)[0][0]}" if reasons else ""
            check.require(
                found.range > 0.8 * asked,
                f"it was asked to move by {asked:.1f}, the gate let {found.range:.1f} through{held}",
            )
            check.require(found.lag_s <= self.settings.lag_max_s, f"it lags by {found.lag_s * 1e3:.0f} ms")
            check.require(
                found.error_rms <= self.settings.following_error_max,
                f"it is off by {found.error_rms:.1f} (root mean square) beside that",
            )
            check.require(states[GateState.FAULT] == 0, "the loop came to a fault")

    def gate(self) -> None:
        """Ask for what the gate must not let through, near the pose that the arm has."""
        poses: list[Poses] = []
        with self.checklist.check("limits", "a pose to begin from"):
            poses.append(self.arm.pose())
        if not poses:
            return
        pose = poses[0]
        inside = np.clip(pose, self.limits.position_min + 2.0 * _BAND, self.limits.position_max - 2.0 * _BAND)
        # Two or three joints stand near an end of their range: there the narrow limits are moved inwards.
        low, high = np.minimum(inside, pose) - _BAND, np.maximum(inside, pose) + _BAND
        narrow = _with_positions(self.limits, low, high)
        beyond = room(pose, low, high, np.full(len(pose), 2.0 * (_BAND + _BEYOND)))
        beyond = np.where(beyond >= 0.0, high - pose + _BEYOND, low - pose - _BEYOND)
        with self.checklist.check("limits", "position") as check:
            records = self._drive(
                narrow, sway(pose, beyond, 1.0 / self.settings.seconds), self.settings.seconds
            )
            commands = [record["command"] for record in records if record["written_ns"]]
            check.require(bool(commands), "no command arrived")
            excess = max((float(np.maximum(each - high, low - each).max()) for each in commands), default=0.0)
            check.figures["beyond_the_limit"] = round(max(0.0, excess), 6)
            check.require(excess <= 0.0, f"a command lay {excess:.3f} beyond its limit")
            self._met(check, records, Reason.POSITION_LIMIT)
        step = np.minimum(_STEP, 0.5 * self.limits.jump_max)
        with self.checklist.check("limits", "velocity and acceleration") as check:
            target = pose + room(pose, self.limits.position_min, self.limits.position_max, 2.0 * step)
            records = self._drive(self.limits, _after(1.0, stand(pose), stand(target)), 2.5)
            self._judge_rates(check, records)
            self._met(check, records, Reason.VELOCITY_LIMIT, Reason.ACCELERATION_LIMIT, Reason.JERK_LIMIT)
        for name, motion, reason in (
            (
                "jump",
                stand(pose + 1.5 * self.limits.jump_max * np.sign(0.5 * (low + high) - pose + 1e-9)),
                Reason.JUMP,
            ),
            ("not a number", stand(np.full(len(pose), np.nan)), Reason.TARGET_NOT_FINITE),
        ):
            with self.checklist.check("limits", name) as check:
                records = self._drive(self.limits, _after(0.5, stand(pose), motion), 1.5)
                self._judge_rates(check, records)
                held = [record for record in records if record["reason"] == reason]
                check.require(bool(held), f"the gate did not refuse it as {reason}")
                if held:
                    moved = max(float(np.abs(record["command"] - pose).max()) for record in held)
                    check.figures["command_moved"] = round(moved, 3)
                    check.require(moved < 2.0, f"the command moved by {moved:.2f}")

    def _drive(self, limits: JointLimits, motion: Motion, seconds: float) -> list[TickRecord]:
        loop = self.arm.loop(limits=limits)
        with self.arm.running(loop, motion):
            wait_for(loop, GateState.RUNNING, _START_S)
            time.sleep(seconds)
            return loop.records().records

    def _met(self, check: Check, records: Sequence[TickRecord], *reasons: Reason) -> None:
        seen = Counter(record["reason"] for record in records)
        check.figures["reasons"] = dict(seen)
        check.require(any(seen[reason] for reason in reasons), f"no target was limited: {dict(seen)}")

    def _judge_rates(self, check: Check, records: Sequence[TickRecord]) -> None:
        # Where commands were lost the next may begin anew at the measured pose: no path leads over the gap.
        gaps = np.flatnonzero([not record["written_ns"] for record in records])
        rate = self.arm.config.loop.rate_hz
        paths = np.split(np.array([record["command"] for record in records]), gaps)
        velocities = [np.diff(path[1:], axis=0) * rate for path in paths if len(path) > 3]
        if not velocities:
            check.require(False, "hardly a command arrived")
            return
        velocity = np.concatenate(velocities)
        acceleration = np.concatenate([np.diff(each, axis=0) * rate for each in velocities])
        for name, seen, limit in (
            ("velocity", velocity, self.limits.velocity_max),
            ("acceleration", acceleration, self.limits.acceleration_max),
        ):
            share = float((np.abs(seen) / limit).max())
            check.figures[f"{name}_share_of_limit"] = round(share, 4)
            check.require(share <= 1.0 + 1e-6, f"{name} was {share:.3f} times its limit")

    def stops(self) -> None:
        """Stop a motion in every way; the arm comes to rest within its limits and stays there."""
        with tempfile.TemporaryDirectory(prefix="molmoact2-hil-") as temporary:
            path, address = Path(temporary) / "stop", Path(temporary) / "socket"
            ways: list[tuple[str, Reason, Callable[[ControlLoop], None]]] = [
                ("the API", Reason.STOP_REQUESTED, lambda loop: loop.latch_stop()),
                ("a file", Reason.STOP_FILE, lambda _: path.touch()),
                ("a socket", Reason.STOP_SOCKET, lambda _: _say(address)),
            ]
            if threading.current_thread() is threading.main_thread():
                ways.append(("SIGTERM", Reason.STOP_SIGNAL, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
            for name, reason, cause in ways:
                with self.checklist.check("stops", name) as check:
                    self._stop(check, reason, cause, str(path), f"unix:{address}")
                path.unlink(missing_ok=True)

    def _stop(
        self, check: Check, reason: Reason, cause: Callable[[ControlLoop], None], file: str, address: str
    ) -> None:
        loop = self.arm.loop(limits=self.limits)
        pose = self.arm.pose()
        amplitude = np.full(len(pose), self.settings.amplitude)
        away = room(pose, self.limits.position_min, self.limits.position_max, amplitude)
        main = threading.current_thread() is threading.main_thread()
        with (
            interruptible(),
            StopMonitor(loop, file=file, socket=address, signals=main),
            self.arm.running(loop, sway(pose, away, 1.0 / self.settings.seconds)),
        ):
            wait_for(loop, GateState.RUNNING, _START_S)
            time.sleep(0.3 * self.settings.seconds)
            asked_ns = time.monotonic_ns()
            cause(loop)
            give_up = time.monotonic() + _REST_S
            while loop.running and time.monotonic() < give_up:
                time.sleep(_POLL_S)
            records = loop.records().records
        last, stopping = records[-1], [record for record in records if record["reason"] == reason]
        check.figures.update(
            until_noticed_ms=None if not stopping else round((stopping[0]["wakeup_ns"] - asked_ns) * 1e-6, 1),
            until_rest_ms=round((last["wakeup_ns"] - asked_ns) * 1e-6, 1),
        )
        check.require(
            (last["state"], last["reason"]) == (GateState.IDLE, reason),
            f"the run ended {last['state']} ({last['reason']}), not at rest ({reason})",
        )
        self._judge_rates(check, records)
        rest = last["command"]
        time.sleep(_HELD_S)
        sagged = float(np.abs(self.arm.pose() - rest).max())
        check.figures["off_after_stop"] = round(sagged, 3)
        check.require(sagged <= _HELD_ERROR, f"after the stop the arm moved by {sagged:.1f}")

    def stop_policies(self) -> None:
        """What the motors do after a stop; a real arm would fall, so only an emulated one is let go."""
        for policy in StopPolicy:
            with self.checklist.check("stops", f"then {policy.value}") as check:
                if policy not in self.arm.robot.capabilities.stop_policies:
                    check.skip("the robot does not offer it")
                if policy is not StopPolicy.HOLD and not self.arm.emulated:
                    check.skip("a real arm would sink or fall")
                self.arm.activate()
                before = self.arm.pose()
                self.arm.robot.stop(policy)
                time.sleep(_HELD_S)
                moved = float(np.abs(self.arm.pose() - before).max())
                check.figures["moved"] = round(moved, 3)
                check.require(self.arm.robot.fault is None, f"it came to a fault: {self.arm.robot.fault}")
                if policy is StopPolicy.HOLD:
                    check.require(moved <= _HELD_ERROR, f"it moved by {moved:.1f}")
        with self.checklist.check("stops", "then it can be switched on again"):
            self.arm.activate()
            self.arm.hold()


def _say(address: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address))
        client.sendall(b"stop\n")
        client.recv(64)


def _after(seconds: float, first: Motion, then: Motion) -> Motion:
    def motion(times: Poses) -> Poses:
        return np.where((times < seconds)[:, None], first(times), then(times))

    return motion


def _at_speed(limits: JointLimits, speed: float) -> JointLimits:
    return JointLimits(
        limits.position_min,
        limits.position_max,
        limits.velocity_max * speed,
        limits.acceleration_max * speed,
        limits.jump_max,
        limits.jerk_max,
    )


def _with_positions(limits: JointLimits, low: Poses, high: Poses) -> JointLimits:
    return JointLimits(
        low, high, limits.velocity_max, limits.acceleration_max, limits.jump_max, limits.jerk_max
    )


def _plot(records: Sequence[TickRecord], joint: int, points: int = 200) -> dict[str, list[float]]:
    """What the report draws of one joint."""
    chosen = list(itertools.islice(records, 0, None, max(1, len(records) // points)))
    begin = chosen[0]["wakeup_ns"]
    return {
        "s": [round((record["wakeup_ns"] - begin) * 1e-9, 3) for record in chosen],
        "command": [round(float(record["command"][joint]), 3) for record in chosen],
        "measured": [round(float(record["measured"][joint]), 3) for record in chosen],
    }
