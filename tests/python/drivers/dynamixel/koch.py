"""An emulated Koch arm with a calibration, and the driver to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from molmoact2_drivers.dynamixel import DynamixelArm, from_config
from molmoact2_edge.config import load_robot

CALIBRATION = {
    "shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": 12, "range_min": 0, "range_max": 4095},
    "shoulder_lift": {"id": 2, "drive_mode": 0, "homing_offset": -30, "range_min": 800, "range_max": 3300},
    "elbow_flex": {"id": 3, "drive_mode": 0, "homing_offset": 0, "range_min": 900, "range_max": 3200},
    "wrist_flex": {"id": 4, "drive_mode": 0, "homing_offset": 5, "range_min": 850, "range_max": 3250},
    "wrist_roll": {"id": 5, "drive_mode": 0, "homing_offset": 0, "range_min": 0, "range_max": 4095},
    "gripper": {"id": 6, "drive_mode": 0, "homing_offset": -100, "range_min": 1800, "range_max": 2900},
}
LIMIT_S = 20.0


def write_calibration(folder: Path) -> Path:
    """Write the file; returns its path."""
    path = folder / "mine.json"
    path.write_text(json.dumps(CALIBRATION), encoding="utf-8")
    return path


def make_arm(address: str, calibration: Path, **connection: Any) -> DynamixelArm:
    """Return the driver of koch.yaml at that address, not connected."""
    config = load_robot("koch")
    given = {**config.connection, "port": address, "calibration": str(calibration), **connection}
    return from_config(replace(config, connection=given))


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait, within a limit that only a broken driver reaches."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
