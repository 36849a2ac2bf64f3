"""Options and life of the two Franka emulators' processes."""

from __future__ import annotations

import argparse
import gc

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.fci_hand import MAX_WIDTH, EmulatedHand
from molmoact2_emulators.fci_robot import EmulatedArm
from molmoact2_emulators.fci_server import FAULTS, FciServer
from molmoact2_emulators.fci_wire import FciVersion
from molmoact2_emulators.franka_arm import READY_POSE, ArmModel
from molmoact2_emulators.process import add_fault_options, running


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an emulated arm."""
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        metavar="IP",
        help="of this computer; ports are fixed, so a second arm needs a second address (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=1000.0,
        metavar="HZ",
        help="states a second; each is one millisecond of the robot's time, so fewer is slow motion "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="let the robot's time wait that long for a late answer before it counts as lost (default: %(default)g)",
    )
    parser.add_argument(
        "--pose",
        type=float,
        nargs=7,
        default=READY_POSE,
        metavar="RAD",
        help="where the seven joints stand at the start (default: the ready pose of libfranka's examples)",
    )
    parser.add_argument(
        "--object", type=float, metavar="METRES", help="width of something that lies between the fingers"
    )
    add_fault_options(parser)


def run_arm(arguments: argparse.Namespace, arm: ArmModel, version: FciVersion) -> int:
    """Be that arm until asked to end; returns the exit code.

    Raises:
        InputError: an option is out of its range.
        RobotError: the ports are taken.
    """
    if not 1.0 <= arguments.rate <= 1000.0:
        raise InputError(f"--rate is 1 to 1000 states a second, got {arguments.rate:g}")
    if not 0.0 <= arguments.patience <= 60.0:
        raise InputError(f"--patience is 0 to 60 seconds, got {arguments.patience:g}")
    if arguments.object is not None and not 0.0 < arguments.object < MAX_WIDTH:
        raise InputError(f"--object is above 0 and below {MAX_WIDTH:g} metres, got {arguments.object:g}")
    for joint, (angle, low, high) in enumerate(
        zip(arguments.pose, arm.position_min, arm.position_max, strict=True), start=1
    ):
        if not low <= angle <= high:
            raise InputError(f"--pose: joint {joint} is {low:g} to {high:g} rad, got {angle:g}")
    plan = FaultPlan(FAULTS, seed=arguments.seed)
    server = FciServer(
        EmulatedArm(arm, version, tuple(arguments.pose)),
        EmulatedHand(arguments.object),
        plan,
        arguments.address,
        rate_hz=arguments.rate,
        patience_s=arguments.patience,
    )
    # A collection would cost the millisecond in which it falls; a tick leaves no cycles behind.
    gc.collect()
    gc.disable()
    try:
        with running(arguments.address, plan, arguments) as ended:
            server.serve(ended)
    finally:
        server.close()
    return 0
