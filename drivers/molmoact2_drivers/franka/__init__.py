"""Franka arms: the FR3 through pylibfranka, the Panda through panda-python; with the Franka hand or a Robotiq 2F-85.

The command line and the configuration speak LeRobot's units. DROID's checkpoints speak rad, and 1 for a closed gripper:
that is a joint convention (`franka_droid`, in :mod:`molmoact2_edge.processor.convention`), not this driver's matter.
"""

from __future__ import annotations

from pathlib import Path

from molmoact2_drivers.franka.arm_client import ArmSettings
from molmoact2_drivers.franka.arm_limits import ARMS
from molmoact2_drivers.franka.hand import FrankaHand, HandState
from molmoact2_drivers.franka.robot import FrankaRobot, Gripper
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.config_section import Section
from molmoact2_edge.errors import InputError

__all__ = ["FrankaHand", "FrankaRobot", "Gripper", "HandState", "from_config"]

_GRIPPERS = ("franka_hand", "robotiq")


def from_config(config: RobotConfig) -> FrankaRobot:
    """Return the robot of a configuration's ``connection``, not yet connected.

    Raises:
        InputError: a key is missing, unknown or out of its range; names it.
        MissingExtraError: the gripper's library is not installed.
    """
    section = Section(Path(f"{config.name}.yaml"), "connection.", config.connection)
    address = section.optional_text("port")
    settings = ArmSettings(
        address=address or "",
        arm=section.choice("arm", tuple(ARMS)),
        target_period_s=1.0 / config.loop.rate_hz,
        impedance=section.numbers("impedance", 7),
        collision=(section.numbers("collision_torques", 7), section.numbers("collision_forces", 6)),
        enforce_realtime=section.boolean("enforce_realtime"),
    )
    gripper = _gripper(section, settings.address)
    section.no_more()
    if address is None:
        raise InputError(f"{config.name}: where is the arm? Give its address: --port 172.16.0.2, say")
    return FrankaRobot(settings, tuple(config.joints), gripper)


def _gripper(section: Section, address: str) -> Gripper:
    kind = section.choice("gripper", _GRIPPERS)
    port = section.optional_text("gripper_port")
    homing = section.boolean("homing")
    if kind == "franka_hand":
        return FrankaHand(address if port is None else port, homing=homing)
    if port is None:
        raise InputError("connection.gripper_port: a Robotiq wants its serial port, /dev/ttyUSB0, say")
    from molmoact2_drivers import robotiq

    gripper: Gripper = robotiq.Gripper(port)
    return gripper
