"""YAM arms: Damiao motors on CAN, behind an slcan adapter or an interface of the kernel."""

from __future__ import annotations

from molmoact2_drivers.yam.discovery import MotorIdentity, discover
from molmoact2_drivers.yam.robot import YamRobot
from molmoact2_drivers.yam.settings import read_settings
from molmoact2_edge.config import RobotConfig

__all__ = ["MotorIdentity", "YamRobot", "discover", "from_config"]


def from_config(config: RobotConfig) -> YamRobot:
    """Return the robot of a configuration, not connected yet.

    Raises:
        InputError: its ``connection`` section does not fit.
    """
    return YamRobot(read_settings(config), config.loop.rate_hz)
