"""The Franka Research 3 with its hand: FCI version 10."""

from __future__ import annotations

import argparse

from molmoact2_emulators.fci_process import add_arm_options, run_arm
from molmoact2_emulators.fci_wire import FCI_V10
from molmoact2_emulators.franka_arm import FR3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_arm_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until asked to end; returns the exit code."""
    return run_arm(arguments, FR3, FCI_V10)
