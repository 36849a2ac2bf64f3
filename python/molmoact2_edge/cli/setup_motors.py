"""``molmoact2-edge setup-motors``: ids and baud rate for new motors, one at a time."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError

if TYPE_CHECKING:
    from molmoact2_edge.arms.motor_setup import MotorSetup, SetupMemory
    from molmoact2_edge.cli.terminal import Terminal

_UNFINISHED = 3

_EXIT_CODES = """exit code: 0 when every motor answers with its id; 3 when some are still to be done, and the command
goes on there the next time; 1 after an error; 2 for wrong arguments."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "setup-motors",
        help="give new motors their ids and baud rate",
        description="For motors that are new: all leave the factory with the same id. You connect one motor at a time, "
        "the command gives it the id of its joint. An arm that has run before does not need this. Nothing moves.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--robot", required=True, metavar="NAME|FILE", help="so101, so100 or koch")
    parser.add_argument(
        "--port", required=True, metavar="PATH", help="serial port; molmoact2-edge find-port knows it"
    )
    parser.add_argument("--leader", action="store_true", help="the leader arm, where its motors differ")
    parser.add_argument("--joint", metavar="NAME", help="this joint's motor only, e.g. after replacing it")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Guide through all motors; returns the exit code."""
    from molmoact2_drivers.calibration import ArmRole
    from molmoact2_edge.arms.arm_servos import arm_servos
    from molmoact2_edge.arms.motor_setup import MotorSetup, SetupMemory
    from molmoact2_edge.cli.terminal import Terminal

    arm = arm_servos(load_robot(arguments.robot), ArmRole.LEADER if arguments.leader else ArmRole.FOLLOWER)
    if arguments.joint is not None and arguments.joint not in arm.joints:
        raise InputError(f"{arm.title} has no joint {arguments.joint!r}; it has {', '.join(arm.joints)}")
    terminal = Terminal()
    setup = MotorSetup(arm, arguments.port, progress=lambda text: terminal.show([text]))
    terminal.say(
        f"{arm.title} on {arguments.port}. Switch the power off before you plug or unplug a motor's cable, and on "
        "again before you press Enter."
    )
    if arguments.joint is not None:
        return 0 if _one(terminal, setup, arguments.joint) else _UNFINISHED
    return _all(terminal, setup, SetupMemory(arm))


def _all(terminal: Terminal, setup: MotorSetup, memory: SetupMemory) -> int:
    done = memory.done()
    if (
        done
        and terminal.ask(
            f"Done before: {', '.join(done)}.", {"c": "continue with the others", "r": "do all of them again"}
        )
        == "r"
    ):
        memory.forget()
        done = ()
    # From the end of the chain, so that a motor that is done stays screwed in while the next is plugged.
    for joint in reversed([joint for joint in setup.arm.joints if joint not in done]):
        if not _one(terminal, setup, joint):
            terminal.say("Not finished. The same command goes on here.")
            return _UNFINISHED
        memory.remember(joint)
    return _check_chain(terminal, setup, memory)


def _one(terminal: Terminal, setup: MotorSetup, joint: str) -> bool:
    """Set up one joint's motor; False where the person ends."""
    number = setup.arm.ids[joint]
    while True:
        answer = terminal.ask(
            f"{joint} (id {number}): connect this motor alone to the board.",
            {"y": "it is connected", "q": "end for now"},
        )
        if answer == "q":
            return False
        attached = setup.look()
        found = attached.only
        if found is None:
            terminal.say(f"Refused: {attached.text}.")
            continue
        other = setup.belongs_elsewhere(joint, found)
        if other is not None and not _sure(terminal, joint, other, found.servo):
            continue
        try:
            changed = setup.assign(joint, found)
        except RobotError as error:
            terminal.say(f"Refused: {error}.")
            continue
        terminal.say(
            f"{joint}: {'; '.join(changed) or f'had id {number} already, nothing to change'}. Read back."
        )
        return True


def _sure(terminal: Terminal, joint: str, other: str, number: int) -> bool:
    answer = terminal.ask(
        f"This motor has id {number}, which is the id of {other}. Is it really the motor of {joint}?",
        {"n": "no, I connect another one", "y": f"yes, make it {joint}"},
    )
    return answer == "y"


def _check_chain(terminal: Terminal, setup: MotorSetup, memory: SetupMemory) -> int:
    from molmoact2_edge.arms.bus_scan import scan_port

    arm = setup.arm
    while True:
        answer = terminal.ask(
            f"All {len(arm.ids)} motors have their ids. Connect the whole chain.",
            {"y": "it is connected", "q": "end without checking"},
        )
        if answer == "q":
            return _UNFINISHED
        report = scan_port(setup.port, (arm.protocol,), (arm.baud,), arm, ids=arm.ids.values())
        if report.good:
            memory.forget()
            terminal.say(f"All motors of {arm.title} answer. Next: molmoact2-edge calibrate")
            return 0
        for finding in report.findings:
            terminal.say(f"wrong: {finding.text}")
