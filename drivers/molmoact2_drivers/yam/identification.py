"""Whether the motors on the buses are those of the robot file."""

from __future__ import annotations

import math

from molmoact2_drivers.yam.arm_joints import MotorPlace, motor_places
from molmoact2_drivers.yam.discovery import MotorIdentity, open_bus
from molmoact2_drivers.yam.registers import PMAX, TMAX, VMAX
from molmoact2_drivers.yam.settings import FEEDBACK_OFFSET, YamSettings
from molmoact2_edge.errors import InputError, RobotError


def identify(settings: YamSettings) -> dict[str, MotorIdentity]:
    """Ask every motor who it is, writing nothing; returns the answers by joint.

    Raises:
        InputError: an arm has no port.
        RobotError: a bus does not open, a motor does not answer, or its scales are not those of the robot file.
    """
    identities = {}
    for arm in settings.arms:
        if arm.port is None:
            key = f"connection.{arm.prefix.rstrip('_')}.port" if arm.prefix else "connection.port"
            raise InputError(
                f"{key}: not given; the path of an slcan adapter, or a CAN interface such as can0"
            )
        places = [place for place in motor_places(settings) if place.arm is arm]
        with open_bus(arm.port, settings.baud, settings.bitrate) as bus:
            found = {place: bus.identify(place.motor.id) for place in places}
        missing = [str(place.motor.id) for place, identity in found.items() if identity is None]
        if missing:
            raise RobotError(
                f"{arm.port}: no answer from motor {', '.join(missing)}; check their power (24 V) and the wiring"
            )
        for place, identity in found.items():
            assert identity is not None
            _check(place, identity)
            identities[place.name] = identity
    return identities


def _check(place: MotorPlace, identity: MotorIdentity) -> None:
    expected_id = place.motor.id + FEEDBACK_OFFSET
    if identity.master_id != expected_id:
        raise RobotError(
            f"{place} answers under {identity.master_id:#x}, expected {expected_id:#x}: set its register 7 (MST_ID)"
        )
    for register, expected, found in zip(
        (PMAX, VMAX, TMAX), place.motor.ranges, identity.ranges, strict=True
    ):
        # Registers hold float32.
        if not math.isclose(expected, found, rel_tol=1e-5):
            raise RobotError(
                f"{place}: its {register.name} (register {register.address}) is {found:g}, the robot file says "
                f"{expected:g}; with a wrong scale every target and every reading is wrong. Correct connection.motors "
                "if the motor is the right one"
            )
