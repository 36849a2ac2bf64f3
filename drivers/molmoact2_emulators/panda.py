"""The Franka Emika Panda with its hand: FCI version 5."""

from __future__ import annotations

import argparse

from molmoact2_emulators.fci_process import add_arm_options, run_arm
from molmoact2_emulators.fci_wire import FCI_V5
from molmoact2_emulators.franka_arm import PANDA


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_arm_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until asked to end; returns the exit code."""
    return run_arm(arguments, PANDA, FCI_V5)
