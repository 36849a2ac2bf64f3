"""``molmoact2-edge emulate``: a robot, a gripper or a camera on the wire without hardware, for real clients."""

from __future__ import annotations

import argparse
import importlib

EMULATORS = {
    "so101": "six Feetech STS3215 on a serial line; --table puts the simulated table behind them",
    "dynamixel": "Dynamixel X servos on a serial line, protocol 2.0",
    "fr3": "Franka Research 3 with its hand: FCI version 10",
    "panda": "Franka Emika Panda with its hand: FCI version 5",
    "yam": "YAM arm: seven Damiao motors on a CAN bus behind a serial-line adapter",
    "robotiq": "Robotiq 2F-85 gripper, Modbus RTU",
    "camera": "V4L2 camera",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command; each emulator has options of its own: ``emulate NAME --help``."""
    names = "\n".join(f"  {name:<10} {purpose}" for name, purpose in EMULATORS.items())
    parser = subparsers.add_parser(
        "emulate",
        help="be a robot or a camera on the wire, without hardware",
        description="The first line on standard output is the path or address to connect to. Each line on standard\n"
        "input is a fault, for instance: corrupt probability=0.01 duration=5",
        epilog=f"emulators, each with --help of its own:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("emulator", choices=tuple(EMULATORS), metavar="NAME")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of that emulator")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the emulator until it is asked to end; returns the exit code."""
    name: str = arguments.emulator
    module = importlib.import_module(f"molmoact2_emulators.{name}")
    purpose = EMULATORS[name]
    parser = argparse.ArgumentParser(
        prog=f"molmoact2-edge emulate {name}", description=f"{purpose[0].upper()}{purpose[1:]}."
    )
    module.add_options(parser)
    code: int = module.run(parser.parse_args(arguments.options))
    return code
