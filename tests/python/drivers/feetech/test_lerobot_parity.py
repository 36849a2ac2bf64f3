"""LeRobot's follower and ours read the same positions from the same arm with the same calibration file, to the tick."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lerobot_python import LEROBOT_PYTHON, needs_lerobot

from molmoact2_drivers.calibration import SO_JOINTS
from molmoact2_drivers.feetech import SoFollower

from .conftest import EmulatedArm, eventually

_CLIENT = Path(__file__).parents[4] / "tools" / "clients" / "lerobot_so101.py"
_TIMEOUT_S = 300.0
# A tick is 0.09 degrees, or 0.08 per cent: these numbers are of the same one.
_ROUNDING = 1e-9
_POSES = ((12.3, -34.5, 41.0, -5.5, 88.8, 20.0), (-77.7, 60.1, -80.2, 70.0, -120.4, 90.0))


@needs_lerobot
@pytest.mark.slow
@pytest.mark.parametrize("pose", _POSES)
def test_lerobot_and_this_driver_read_the_same_positions(
    emulated: Callable[..., EmulatedArm], pose: tuple[float, ...]
) -> None:
    emulated_arm = emulated()
    path = emulated_arm.calibration.path
    assert path is not None
    with emulated_arm.follower() as arm:
        arm.connect()
        for servo, position in enumerate(pose, start=1):
            emulated_arm.fault(f"hand servo={servo} degrees={position}")
        assert eventually(lambda: all(abs(arm.read_state().positions - pose) < 0.2))
        assert eventually(lambda: _rests(arm))
        ours = dict(zip(SO_JOINTS, arm.read_state().positions, strict=True))

    done = subprocess.run(
        [str(LEROBOT_PYTHON), str(_CLIENT), emulated_arm.address, str(path), "--still"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert theirs["calibrated"]
    assert theirs["start"].keys() == {f"{name}.pos" for name in SO_JOINTS}
    for name in SO_JOINTS:
        assert ours[name] == pytest.approx(theirs["start"][f"{name}.pos"], abs=_ROUNDING)


def _rests(arm: SoFollower) -> bool:
    before = arm.read_state().positions
    time.sleep(0.5)
    return bool((arm.read_state().positions == before).all())
