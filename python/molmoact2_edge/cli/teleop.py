"""``molmoact2-edge teleop``: a follower arm copies a leader arm."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.arms.teleoperation import LeaderReader, Phase, Teleoperation, TeleoperationStatus
    from molmoact2_edge.cli.driving import Drive
    from molmoact2_edge.cli.terminal import Terminal

_DRAW_S = 0.1

_EXIT_CODES = """exit code: 0 when it ended as asked: a key, --duration, or a stop; 1 after an error or a fault; 2 for
wrong arguments; 130, 143 or 129 when SIGINT, SIGTERM or SIGHUP ended it."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "teleop",
        help="let a follower arm copy a leader arm",
        description="You move the leader, the follower copies it. It first moves slowly to the leader's pose; a leader "
        "that stands too far away is told, and nothing moves until it is nearer. Targets pass the safety gate with the "
        "configuration's limits. When the leader falls silent the follower holds, and approaches it slowly once it is "
        "back. Any key ends.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "--leader",
        required=True,
        metavar="PATH",
        help="the leader's serial port; molmoact2-edge find-port knows it",
    )
    parser.add_argument("--follower", required=True, metavar="PATH", help="the follower's serial port")
    parser.add_argument(
        "--robot",
        default="so101",
        metavar="NAME|FILE",
        help="the follower: so101, so100 or koch (default: %(default)s)",
    )
    parser.add_argument(
        "--leader-robot", metavar="NAME|FILE", help="what the leader is (default: as the follower)"
    )
    parser.add_argument("--rate", type=float, default=100.0, metavar="HZ", help="default: %(default)g")
    parser.add_argument(
        "--leader-id",
        metavar="NAME",
        help="the leader's calibration, LeRobot's --teleop.id (default: the only one)",
    )
    parser.add_argument(
        "--follower-id", metavar="NAME", help="the follower's, LeRobot's --robot.id (default: the only one)"
    )
    parser.add_argument("--leader-calibration", type=Path, metavar="FILE", help="this file instead")
    parser.add_argument("--follower-calibration", type=Path, metavar="FILE", help="this file instead")
    parser.add_argument("--duration", type=float, metavar="S", help="end after S seconds (default: never)")
    parser.add_argument(
        "--stop-pose",
        choices=("hold", "damp", "torque_off"),
        help="what the follower's motors do at the end (default: the configuration's stop.pose)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Teleoperate until something ends it; returns the exit code."""
    from molmoact2_edge.arms.teleoperation import Teleoperation
    from molmoact2_edge.cli.driving import driving
    from molmoact2_edge.cli.terminal import Terminal
    from molmoact2_edge.runtime.hardware import with_connection

    if os.path.realpath(arguments.leader) == os.path.realpath(arguments.follower):
        raise InputError(
            f"leader and follower are both on {arguments.leader}; each arm has a port of its own"
        )
    if not 10.0 <= arguments.rate <= 1000.0:
        raise InputError(f"--rate is 10 to 1000 Hz, got {arguments.rate:g}")
    config = with_connection(
        load_robot(arguments.robot),
        port=arguments.follower,
        id=arguments.follower_id,
        calibration=arguments.follower_calibration,
    )
    terminal = Terminal()
    with (
        _leader(arguments) as (reader, joints),
        driving(
            config, rate_hz=arguments.rate, stop_policy=arguments.stop_pose, key=_key_descriptor()
        ) as drive,
    ):
        teleoperation = Teleoperation(reader, joints, drive.arm)
        terminal.say(f"the leader's motors are off: move it by hand; stops on {drive.stops}")
        _Show(terminal, drive, reader, teleoperation, arguments).run()
        return drive.exit_code


@contextmanager
def _leader(arguments: argparse.Namespace) -> Iterator[tuple[LeaderReader, tuple[str, ...]]]:
    from molmoact2_edge.arms.connection import make_leader
    from molmoact2_edge.arms.teleoperation import LeaderReader

    config = load_robot(arguments.leader_robot or arguments.robot)
    leader = make_leader(
        config, port=arguments.leader, name=arguments.leader_id, calibration=arguments.leader_calibration
    )
    try:
        leader.connect()
        leader.configure()
        reader = LeaderReader(leader, arguments.rate)
        reader.start()
        try:
            yield reader, leader.capabilities.joint_names
        finally:
            reader.stop()
    finally:
        leader.disconnect()


def _key_descriptor() -> int | None:
    return 0 if sys.stdin is not None and not sys.stdin.closed and os.isatty(0) else None


class _Show:
    """Passes on poses at the rate and tells how it stands."""

    def __init__(
        self,
        terminal: Terminal,
        drive: Drive,
        reader: LeaderReader,
        teleoperation: Teleoperation,
        arguments: argparse.Namespace,
    ) -> None:
        self._terminal = terminal
        self._drive = drive
        self._reader = reader
        self._teleoperation = teleoperation
        self._period_s = 1.0 / arguments.rate
        self._duration_s: float | None = arguments.duration
        self._phase: Phase | None = None

    def run(self) -> None:
        begun = due = time.monotonic()
        drawn = 0.0
        while not self._drive.ended:
            now = time.monotonic()
            if self._duration_s is not None and now - begun >= self._duration_s:
                break
            status = self._teleoperation.step()
            self._tell(status)
            if now - drawn > _DRAW_S:
                self._terminal.show(self._lines(status))
                drawn = now
            due = max(due + self._period_s, time.monotonic())
            self._drive.interruption.wait(due - time.monotonic())
        self._summary(time.monotonic() - begun)

    def _tell(self, status: TeleoperationStatus) -> None:
        """A line at every change of what is going on, so that a log without a terminal has it too."""
        if status.phase is self._phase:
            return
        self._phase = status.phase
        self._terminal.say(" ".join([status.phase.value, self._detail(status)]).rstrip())

    def _detail(self, status: TeleoperationStatus) -> str:
        from molmoact2_edge.arms.teleoperation import Phase

        if status.far:
            away = ", ".join(f"{joint} by {distance:.0f}" for joint, distance in status.far.items())
            return f"({away}): move the leader nearer to the follower's pose"
        if status.phase is Phase.HELD and status.arm is not None:
            return f"({status.arm.reason.text})"
        if status.phase in (Phase.LOST, Phase.WAITING) and self._reader.trouble:
            return f"({self._reader.trouble})"
        return ""

    def _lines(self, status: TeleoperationStatus) -> list[str]:
        from molmoact2_edge.cli.terminal import table

        arm = self._drive.arm
        rows = [
            [
                name,
                "-" if status.leader is None else f"{status.leader[index]:.1f}",
                "-" if status.arm is None else f"{status.arm.measured[index]:.1f}",
                "limited" if status.arm is not None and name in status.arm.limited else "",
            ]
            for index, name in enumerate(arm.joint_names)
        ]
        statistics = arm.loop.statistics()
        age = statistics["observation_age"]
        return [
            *table(["joint", "leader", "follower", ""], rows),
            f"{status.phase.value} {self._detail(status)}",
            f"leader {self._reader.rate_hz:.0f} Hz, {self._reader.failures} failed readings   "
            f"loop {arm.loop.rate_hz:.0f} Hz, {statistics['overruns']} overruns   "
            f"leader to command {age['p50_s'] * 1e3:.1f} ms (p99 {age['p99_s'] * 1e3:.1f})   "
            f"behind by {status.lag:.1f}",
        ]

    def _summary(self, seconds: float) -> None:
        statistics = self._drive.arm.loop.statistics()
        age = statistics["observation_age"]
        self._terminal.say(
            f"{self._drive.reason or 'ended'} after {seconds:.1f} s: {statistics['executed_steps']} targets, leader "
            f"lost {self._teleoperation.losses} times, {self._reader.failures} failed readings, leader to command "
            f"p50 {age['p50_s'] * 1e3:.1f} ms, p99 {age['p99_s'] * 1e3:.1f} ms"
        )
