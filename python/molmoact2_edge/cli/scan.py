"""``molmoact2-edge scan``: the motors on a bus, and what is wrong with them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from molmoact2_edge.config import load_robot

if TYPE_CHECKING:
    from molmoact2_edge.arms.arm_servos import ArmServos
    from molmoact2_edge.arms.bus_scan import ScanReport

_FOUND_WRONG = 3

_EXIT_CODES = """exit code: 0 when everything is as it should be; 3 when something is wrong, which is listed; 1 after an
error; 2 for wrong arguments."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "scan",
        help="list the motors on a bus",
        description="Pings every id and reads model, firmware, voltage and temperature of those that answer. Nothing "
        "is written and nothing moves. With --robot it also says which of the robot's motors are missing or wrong.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument(
        "--port", required=True, metavar="PATH", help="serial port; molmoact2-edge find-port knows it"
    )
    parser.add_argument(
        "--robot", metavar="NAME|FILE", help="whose motors should be there, e.g. so101 or koch"
    )
    parser.add_argument("--leader", action="store_true", help="with --robot: the leader arm's motors")
    parser.add_argument(
        "--protocol",
        choices=("feetech", "dynamixel"),
        help="what the motors speak (default: the robot's, else both are tried)",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--baud", type=int, metavar="B", help="default: 1000000")
    rate.add_argument(
        "--all-bauds", action="store_true", help="every rate that such motors can have; takes longer"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for scripts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Scan and print; returns the exit code."""
    from molmoact2_edge.arms.arm_servos import PROTOCOLS
    from molmoact2_edge.arms.bus_scan import scan_port

    arm = _arm(arguments)
    usual = 1_000_000 if arm is None else arm.baud
    if arguments.protocol is not None:
        protocols: tuple[str, ...] = (arguments.protocol,)
    else:
        protocols = PROTOCOLS if arm is None else (arm.protocol,)
    report = scan_port(
        arguments.port,
        protocols,
        () if arguments.all_bauds else (arguments.baud or usual,),
        arm,
        progress=lambda what: print(f"asking for {what} ...", file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print("\n".join(_text(report)))
    return 0 if report.good else _FOUND_WRONG


def _arm(arguments: argparse.Namespace) -> ArmServos | None:
    from molmoact2_drivers.calibration import ArmRole
    from molmoact2_edge.arms.arm_servos import arm_servos
    from molmoact2_edge.errors import InputError

    if arguments.robot is None:
        if arguments.leader:
            raise InputError(
                "--leader says which of a robot's two arms is meant; add --robot, e.g. --robot so101"
            )
        return None
    return arm_servos(load_robot(arguments.robot), ArmRole.LEADER if arguments.leader else ArmRole.FOLLOWER)


def _text(report: ScanReport) -> list[str]:
    from molmoact2_edge.cli.terminal import table

    lines = []
    if report.servos:
        lines += table(
            ["id", "joint", "model", "firmware", "baud", "volts", "°C", "torque", "reports"],
            [
                [
                    str(servo.servo),
                    servo.joint or "",
                    servo.model,
                    servo.firmware,
                    str(servo.baud),
                    _number(servo.voltage_v, 1),
                    _number(servo.temperature_c, 0),
                    {True: "on", False: "off", None: "?"}[servo.torque_on],
                    ", ".join(servo.errors) or "nothing",
                ]
                for servo in report.servos
            ],
        )
        lines.append("")
    lines += [f"wrong: {finding.text}" for finding in report.findings]
    if report.good:
        lines.append(f"{len(report.servos)} motors, nothing wrong")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "?" if value is None else f"{value:.{digits}f}"
