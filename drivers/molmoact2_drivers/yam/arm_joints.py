"""The joints of YAM arms: what they can do, and the port whose motors turn them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from molmoact2_drivers.protocol import Joint, JointUnit, Measurement, RobotCapabilities, StopPolicy
from molmoact2_drivers.yam.settings import FEEDBACK_OFFSET, JOINTS, ArmSettings, MotorSettings, YamSettings
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge._core.damiao import CanBus, DamiaoPort

RANGES = (
    (-2.618, 3.142),
    (0.0, 3.665),
    (0.0, 3.142),
    (-1.693, 1.571),
    (-1.571, 1.571),
    (-2.094, 2.094),
)
"""rad: what the joints of an arm can do."""

_DEGREES = 180.0 / math.pi
_KEEP_PERIOD_S = 0.02
_SILENCE_S = 0.1  # after the motors' own timeout
_FRAMES_PER_ARM = 2 * len(JOINTS)
_FRAME_S = 130e-6  # of eight bytes at 1 Mbit/s, stuffed
_LINE_BYTES = 22  # of such a frame as slcan writes it
_MAX_COMMAND_RATE_HZ = 500.0


@dataclass(frozen=True)
class MotorPlace:
    """A motor and the joint that it turns."""

    name: str
    """The joint's."""
    arm: ArmSettings
    motor: MotorSettings

    @property
    def is_gripper(self) -> bool:
        """Whether it moves fingers."""
        return self.name.endswith(JOINTS[-1])

    def __str__(self) -> str:
        return f"{self.name} (motor {self.motor.id} on {self.arm.port})"


def motor_places(settings: YamSettings) -> tuple[MotorPlace, ...]:
    """Return every motor in the order of the vectors."""
    return tuple(
        MotorPlace(f"{arm.prefix}{joint}", arm, motor)
        for arm in settings.arms
        for joint, motor in zip(JOINTS, settings.motors, strict=True)
    )


def capabilities(settings: YamSettings) -> RobotCapabilities:
    """Return what the arms can do."""
    serial_s = 0.0
    if any(arm.is_slcan for arm in settings.arms):
        serial_s = len(JOINTS) * _LINE_BYTES * 10.0 / settings.baud
    return RobotCapabilities(
        tuple(joint for arm in settings.arms for joint in _joints(settings, arm)),
        command_rate_max_hz=min(_MAX_COMMAND_RATE_HZ, 1.0 / (_FRAMES_PER_ARM * _FRAME_S + serial_s)),
        measures=frozenset({Measurement.VELOCITY, Measurement.TEMPERATURE}),
        stop_policies=frozenset(StopPolicy),
    )


def make_port(settings: YamSettings, exchange_timeout_s: float) -> DamiaoPort:
    """Return the port of the arms, not open yet; the motors have `exchange_timeout_s` to answer.

    Raises:
        InputError: the settings make no port; says why.
    """
    from molmoact2_edge._core.damiao import ArmWeight, DamiaoJoint, DamiaoPort

    weights = []
    if settings.gravity is not None:
        chain, factors = settings.gravity.chain(), list(settings.gravity.scale)
        weights = [
            ArmWeight(chain=chain, first_joint=index * len(JOINTS), factors=factors)
            for index in range(len(settings.arms))
        ]
    joints = []
    for place in motor_places(settings):
        scale, offset = _scale(place)
        joints.append(
            DamiaoJoint(
                bus=settings.arms.index(place.arm),
                motor_id=place.motor.id,
                feedback_id=place.motor.id + FEEDBACK_OFFSET,
                ranges=place.motor.ranges,
                kp=place.motor.kp,
                kd=place.motor.kd,
                scale=scale,
                offset=offset,
            )
        )
    try:
        return DamiaoPort(
            buses=[_bus(settings, arm) for arm in settings.arms],
            joints=joints,
            weights=weights,
            exchange_timeout_s=exchange_timeout_s,
            ramp_s=settings.ramp_s,
            silence_s=settings.timeout_s + _SILENCE_S,
            keep_period_s=_KEEP_PERIOD_S,
        )
    except ValueError as error:
        raise InputError(f"connection: {error}") from error


def _joints(settings: YamSettings, arm: ArmSettings) -> list[Joint]:
    joints = [
        Joint(
            f"{arm.prefix}{joint}", JointUnit.DEGREES, low * _DEGREES, high * _DEGREES, motor.vmax * _DEGREES
        )
        for joint, (low, high), motor in zip(JOINTS, RANGES, settings.motors, strict=False)
    ]
    speed = abs(100.0 / (arm.gripper_open - arm.gripper_closed)) * settings.motors[-1].vmax
    joints.append(Joint(f"{arm.prefix}{JOINTS[-1]}", JointUnit.PERCENT, 0.0, 100.0, speed))
    return joints


def _scale(place: MotorPlace) -> tuple[float, float]:
    """Return joint units a radian, and the joint's value at the motor's zero."""
    if not place.is_gripper:
        return _DEGREES, 0.0
    scale = 100.0 / (place.arm.gripper_open - place.arm.gripper_closed)
    return scale, -place.arm.gripper_closed * scale


def _bus(settings: YamSettings, arm: ArmSettings) -> CanBus:
    from molmoact2_edge._core.damiao import CanBus

    assert arm.port is not None
    if arm.is_slcan:
        return CanBus.slcan(arm.port, settings.baud, settings.bitrate)
    return CanBus.socketcan(arm.port)
