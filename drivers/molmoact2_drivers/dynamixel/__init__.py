"""Dynamixel X servos, protocol 2.0: the Koch arm and arms like it."""

from __future__ import annotations

from pathlib import Path

from molmoact2_drivers.calibration import ArmRole, find_calibration, load_calibration
from molmoact2_drivers.dynamixel.arm import DynamixelArm, KochLeader
from molmoact2_drivers.dynamixel.control_table import ControlTable, Register, control_table
from molmoact2_drivers.dynamixel.servo_bus import (
    BAUDS,
    DEFAULT_BAUD,
    ServoBus,
    Torque,
    error_names,
)
from molmoact2_drivers.dynamixel.settings import (
    FAMILY,
    PROTOCOL,
    ArmSettings,
    ServoSettings,
    koch_leader,
    settings_from_config,
)
from molmoact2_drivers.homing_offsets import homing_offset_max
from molmoact2_drivers.servos import FoundServo
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError

__all__ = [
    "BAUDS",
    "ArmSettings",
    "ControlTable",
    "DynamixelArm",
    "FoundServo",
    "KochLeader",
    "Register",
    "ServoBus",
    "ServoSettings",
    "Torque",
    "control_table",
    "error_names",
    "from_config",
    "open_leader",
]


def from_config(config: RobotConfig) -> DynamixelArm:
    """Return the arm that a configuration describes, not connected.

    Raises:
        InputError: a key of ``connection`` is missing or wrong, or there is no such calibration.
    """
    return DynamixelArm(settings_from_config(config))


def open_leader(
    family: str, port: str, name: str | None, calibration: Path | None = None, baud: int = DEFAULT_BAUD
) -> KochLeader:
    """Return the leader arm on a port, not connected; ``name`` is that of its calibration, None the only one there is.

    Raises:
        InputError: no such family, or no calibration of that name.
    """
    if family != FAMILY:
        raise InputError(f"no leader arm of Dynamixel servos is called {family!r}; there is {FAMILY}")
    path = calibration if calibration is not None else find_calibration(family, ArmRole.LEADER, name)
    joints = load_calibration(path, offset_max=homing_offset_max(PROTOCOL))
    return KochLeader(koch_leader(port, joints, baud))
