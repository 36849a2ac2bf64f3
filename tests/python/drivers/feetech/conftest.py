"""An emulated SO-101 in a process of its own, and arms of this package on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers.calibration import ArmCalibration, JointCalibration, load_calibration, save_calibration
from molmoact2_drivers.feetech import SoArm, SoFollower

# Horns beside the middle, a gripper that opens towards lower ticks: an arm as people build them.
BUILT = {
    "shoulder_pan": JointCalibration(1, 0, 131, 812, 3307),
    "shoulder_lift": JointCalibration(2, 0, -260, 871, 3190),
    "elbow_flex": JointCalibration(3, 0, 57, 901, 3099),
    "wrist_flex": JointCalibration(4, 0, -1, 975, 3128),
    "wrist_roll": JointCalibration(5, 0, 402, 0, 4095),
    "gripper": JointCalibration(6, 1, -77, 1432, 2671),
}


@dataclass
class EmulatedArm:
    """The emulator's process, and the calibration of its arm."""

    process: EmulatorProcess
    calibration: ArmCalibration

    @property
    def address(self) -> str:
        return self.process.address

    def fault(self, line: str) -> None:
        self.process.fault(line)

    def follower(self) -> AbstractContextManager[SoFollower]:
        """A follower that is not connected, and is disconnected at the end."""
        return disconnecting(SoFollower(self.address, self.calibration))


@contextmanager
def disconnecting(arm: SoArm) -> Iterator[SoArm]:
    try:
        yield arm
    finally:
        arm.disconnect()


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Callable[..., EmulatedArm]]:
    """Start an emulated arm with further options; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> EmulatedArm:
            path = tmp_path / "built.json"
            save_calibration(path, BUILT)
            process = stack.enter_context(emulator("so101", "--calibrated-as", str(path), *options))
            return EmulatedArm(process, load_calibration(path))

        yield start


def eventually(condition: Callable[[], bool], patience_s: float = 20.0) -> bool:
    """Whether it holds within a time in which even a loaded machine gets there."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
