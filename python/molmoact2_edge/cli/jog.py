"""``molmoact2-edge jog``: one joint at a time, by hand-sized steps, through the safety gate."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from molmoact2_edge.config import load_robot, robot_names
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.arms.gated_arm import ArmStatus
    from molmoact2_edge.arms.jogging import Jogger
    from molmoact2_edge.cli.driving import Drive
    from molmoact2_edge.cli.terminal import Keys, Terminal

_STEPS = (0.5, 1.0, 2.0, 5.0, 10.0)
_DRAW_S = 0.1
_NOT_THERE = 3

_EXIT_CODES = """exit code: 0 when it ended as asked; 3 when --by did not come to its goal; 1 after an error or a fault;
2 for wrong arguments; 130, 143 or 129 when SIGINT, SIGTERM or SIGHUP ended it."""

_KEYS = """keys: 1..9 or up and down select a joint, left and right (or - and +) move it by one step, < and > change the
step, space stops the motion, q ends."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "jog",
        help="move one joint by hand-sized steps",
        description="Moves one joint at a time, slowly, within the limits of the robot's configuration: a first check "
        f"that directions, middle and ranges are right. Without --joint it is steered by {_KEYS}",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "--robot", required=True, metavar="NAME|FILE", help=f"{', '.join(robot_names())}, or a .yaml file"
    )
    add_connection_options(parser)
    parser.add_argument("--joint", metavar="NAME", help="move this joint and end; needs --by")
    parser.add_argument(
        "--by",
        type=float,
        metavar="X",
        help="how far: degrees, the gripper in percent of its opening; may be negative",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=0.25,
        metavar="S",
        help="share of the configuration's velocity and acceleration limits, above 0 to 1 (default: %(default)g)",
    )
    parser.add_argument(
        "--stop-pose",
        choices=("hold", "damp", "torque_off"),
        help="what the motors do at the end (default: the configuration's stop.pose)",
    )
    parser.set_defaults(run=run)


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add where the arm is and how it is calibrated."""
    parser.add_argument("--port", metavar="PATH", help="serial port; molmoact2-edge find-port knows it")
    parser.add_argument("--left-port", metavar="PATH", help="of the left one of two arms")
    parser.add_argument("--right-port", metavar="PATH", help="of the right one of two arms")
    parser.add_argument(
        "--id",
        metavar="NAME",
        help="whose calibration, as LeRobot's --robot.id (default: the only one there is)",
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="this calibration file instead")


def run(arguments: argparse.Namespace) -> int:
    """Jog; returns the exit code."""
    from molmoact2_edge.arms.jogging import Jogger
    from molmoact2_edge.cli.driving import driving
    from molmoact2_edge.cli.terminal import Terminal
    from molmoact2_edge.runtime.hardware import with_connection

    if (arguments.joint is None) != (arguments.by is None):
        raise InputError("--joint and --by go together: --joint shoulder_pan --by 5")
    config = with_connection(
        load_robot(arguments.robot),
        port=arguments.port,
        id=arguments.id,
        calibration=arguments.calibration,
        left_port=arguments.left_port,
        right_port=arguments.right_port,
    )
    if arguments.joint is not None and arguments.joint not in config.joints:
        raise InputError(f"{config.name} has no joint {arguments.joint!r}; it has {', '.join(config.joints)}")
    terminal = Terminal()
    with driving(config, speed=arguments.speed, stop_policy=arguments.stop_pose) as drive:
        jogger = Jogger(drive.arm)
        if arguments.joint is not None:
            return _move_once(terminal, drive, jogger, arguments.joint, arguments.by)
        with terminal.keys() as keys:
            _Panel(terminal, drive, jogger).run(keys)
        terminal.say(
            f"{drive.reason or 'ended'}; at the end the motors {_AFTER[drive.arm.stop_policy.value]}"
        )
        return drive.exit_code


def _move_once(terminal: Terminal, drive: Drive, jogger: Jogger, joint: str, by: float) -> int:
    move = jogger.move(joint, by)
    text = f"{joint}: {move.start:.1f} -> {move.reached:.1f}, goal {move.goal:.1f}"
    if jogger.note:
        text += f" ({jogger.note})"
    terminal.say(text)
    if move.arrived:
        return drive.exit_code
    terminal.say(
        f"{joint} did not come to its goal: is something in its way, is the power supply strong enough, is the motor "
        "overloaded (molmoact2-edge scan says)?"
    )
    return _NOT_THERE


class _Panel:
    """The live table and its keys."""

    def __init__(self, terminal: Terminal, drive: Drive, jogger: Jogger) -> None:
        self._terminal = terminal
        self._drive = drive
        self._jogger = jogger
        self._selected = 0
        self._step = _STEPS.index(2.0)

    def run(self, keys: Keys) -> None:
        from molmoact2_edge.arms.jogging import REFRESH_S

        self._terminal.say(f"{self._drive.arm.robot.name}; stops on {self._drive.stops}\n{_KEYS}")
        drawn = 0.0
        while not self._drive.ended:
            status = self._jogger.refresh()
            if time.monotonic() - drawn > _DRAW_S:
                self._terminal.show(self._lines(status))
                drawn = time.monotonic()
            key = keys.get(REFRESH_S)
            if key == "q":
                return
            if key is not None:
                self._press(key)

    def _press(self, key: str) -> None:
        names = self._drive.arm.joint_names
        if key.isdigit() and 1 <= int(key) <= len(names):
            self._selected = int(key) - 1
        elif key in ("up", "down"):
            self._selected = (self._selected + (1 if key == "down" else -1)) % len(names)
        elif key in ("left", "-", "right", "+", "="):
            sign = -1.0 if key in ("left", "-") else 1.0
            self._jogger.move_by(names[self._selected], sign * _STEPS[self._step])
        elif key in ("<", ","):
            self._step = max(self._step - 1, 0)
        elif key in (">", "."):
            self._step = min(self._step + 1, len(_STEPS) - 1)
        elif key == "space":
            self._jogger.halt()

    def _lines(self, status: ArmStatus) -> list[str]:
        from molmoact2_edge.cli.terminal import table

        arm, limits = self._drive.arm, self._drive.arm.limits
        rows = [
            [
                ">" if index == self._selected else "",
                str(index + 1),
                name,
                f"{status.measured[index]:.1f}",
                f"{self._jogger.goals[index]:.1f}",
                f"{limits.position_min[index]:g}",
                f"{limits.position_max[index]:g}",
            ]
            for index, name in enumerate(arm.joint_names)
        ]
        return [
            *table(["", "", "joint", "now", "goal", "from", "to"], rows),
            f"step {_STEPS[self._step]:g}   {status.state}: {status.reason.text}   {self._jogger.note}",
        ]


_AFTER = {
    "hold": "hold the arm where it is",
    "damp": "let the arm sink slowly: support it",
    "torque_off": "let the arm go: support it",
}
