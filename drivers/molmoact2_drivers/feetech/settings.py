"""What a servo of an SO-100 or SO-101 is set to: LeRobot's values, so that an arm behaves the same with both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from molmoact2_drivers.calibration import JointCalibration
from molmoact2_drivers.feetech.bus import ServoBus, Torque, calibration_registers
from molmoact2_edge.errors import RobotError

GRIPPER = "gripper"


@dataclass(frozen=True)
class ServoSettings:
    """Registers and their values."""

    eeprom: Mapping[str, int]
    """Kept without power; written only with the torque off."""
    ram: Mapping[str, int] = field(default_factory=dict)
    """Lost without power."""
    unchecked: Mapping[str, int] = field(default_factory=dict)
    """Registers that some firmware does not take."""


_EVERY_SERVO = {"return_delay_time": 0, "operating_mode": 0}
_EVERY_FOLLOWER = {"p_coefficient": 16, "i_coefficient": 0, "d_coefficient": 32}
# A gripper that closes on something hard would burn at full torque.
_GRIPPER = {"max_torque_limit": 500, "protection_current": 250, "overload_torque": 25}
_ACCELERATION = 254


def follower_settings(joint: str, calibration: JointCalibration) -> ServoSettings:
    """Return the settings of a joint that follows commands."""
    gripper = joint == GRIPPER
    return ServoSettings(
        eeprom={
            **_EVERY_SERVO,
            **_EVERY_FOLLOWER,
            **(_GRIPPER if gripper else {}),
            **calibration_registers(calibration),
        },
        # The limit in force is read from max_torque_limit only when the servo starts.
        ram={
            "acceleration": _ACCELERATION,
            **({"torque_limit": _GRIPPER["max_torque_limit"]} if gripper else {}),
        },
        unchecked={"maximum_acceleration": _ACCELERATION},
    )


def leader_settings(joint: str, calibration: JointCalibration) -> ServoSettings:
    """Return the settings of a joint that a person moves."""
    return ServoSettings(eeprom={**_EVERY_SERVO, **calibration_registers(calibration)})


def apply_settings(bus: ServoBus, joint: str, servo: int, settings: ServoSettings) -> dict[str, int]:
    """Write what differs and check it; returns what was written. Nothing moves.

    Raises:
        RobotError: the servo does not answer, does not take a value, or would have to let go for it.
    """
    different = {name: value for name, value in settings.eeprom.items() if bus.read(servo, name) != value}
    if different and bus.read(servo, "torque_enable") != Torque.OFF:
        raise RobotError(
            f"{joint} (servo {servo} on {bus.port}) holds its position, and would have to let go for its settings "
            f"to be changed ({', '.join(different)}): lay the arm down, switch its power off and on, and try again"
        )
    written = bus.write_eeprom(servo, different)
    for name, value in settings.ram.items():
        if bus.read(servo, name) != value:
            bus.write_checked(servo, name, value)
            written[name] = value
    for name, value in settings.unchecked.items():
        if bus.read(servo, name) != value:
            bus.write(servo, name, value)
            written[name] = value
    return written
