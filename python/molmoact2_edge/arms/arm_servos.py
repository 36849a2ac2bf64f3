"""Which servos an arm is made of: ids, models, baud rate, and how its joints are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from molmoact2_drivers.calibration import ArmRole
from molmoact2_drivers.homing_offsets import homing_offset_max
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError

FEETECH = "feetech"
DYNAMIXEL = "dynamixel"
PROTOCOLS = (FEETECH, DYNAMIXEL)

_DEGREES_PER_TICK = 360.0 / 4095.0  # LeRobot's scale of a servo with 4096 positions
_BAUD = 1_000_000
_GRIPPER = "gripper"


@dataclass(frozen=True)
class ArmServos:
    """The servos of one kind of arm, in the order of its joints."""

    robot: str
    family: str
    """Names the folder of calibration files: so100, so101 or koch."""
    role: ArmRole
    protocol: str
    ids: Mapping[str, int]
    """By joint."""
    models: Mapping[str, str]
    """By joint; empty where any model will do."""
    full_turn: frozenset[str]
    """Joints without end stops, calibrated as a whole turn."""
    spans: Mapping[str, float]
    """By joint: how many ticks it turns from stop to stop, about; without those that nobody knows."""
    baud: int = _BAUD

    @property
    def joints(self) -> tuple[str, ...]:
        return tuple(self.ids)

    @property
    def homing_offset_max(self) -> int:
        """The largest homing offset, in ticks, that each of them can keep."""
        return min(homing_offset_max(self.protocol, model) for model in self.models.values())

    def joint_of(self, servo: int) -> str | None:
        """The joint that has the id ``servo``; None where none has."""
        return next((joint for joint, number in self.ids.items() if number == servo), None)

    @property
    def title(self) -> str:
        """For people: "so101 leader", "so101"."""
        return f"{self.robot} leader" if self.role is ArmRole.LEADER else self.robot


@dataclass(frozen=True)
class _Kind:
    protocol: str
    full_turn: frozenset[str]
    follower: tuple[str, ...]
    leader: tuple[str, ...]


# Order of the joints, base to gripper; ids count from 1. Koch v1.1: docs of LeRobot's koch_follower and koch_leader.
_KINDS = {
    "so100": _Kind(FEETECH, frozenset({"wrist_roll"}), ("sts3215",) * 6, ("sts3215",) * 6),
    "so101": _Kind(FEETECH, frozenset({"wrist_roll"}), ("sts3215",) * 6, ("sts3215",) * 6),
    "koch": _Kind(
        DYNAMIXEL,
        frozenset({"shoulder_pan", "wrist_roll"}),
        ("xl430-w250",) * 2 + ("xl330-m288",) * 4,
        ("xl330-m077",) * 6,
    ),
}


def arm_servos(config: RobotConfig, role: ArmRole = ArmRole.FOLLOWER) -> ArmServos:
    """Return the servos of a robot.

    Raises:
        InputError: the robot is not made of servos that these commands can set up.
    """
    kind = _KINDS.get(config.driver)
    if kind is None:
        known = ", ".join(_KINDS)
        raise InputError(
            f"robot {config.name!r} (driver {config.driver}) has no servos to set up here; "
            f"this command is for arms with the drivers {known}"
        )
    joints = tuple(config.joints)
    # A configuration may say more than its kind: an arm of Dynamixel servos names them.
    named = config.connection.get("servos") if role is ArmRole.FOLLOWER else None
    if isinstance(named, Mapping) and tuple(named) == joints:
        ids = {joint: int(servo["id"]) for joint, servo in named.items()}
        models = {joint: str(servo.get("model") or "").lower() for joint, servo in named.items()}
    else:
        usual = kind.leader if role is ArmRole.LEADER else kind.follower
        if len(joints) != len(usual):
            raise InputError(
                f"robot {config.name!r}: a {config.driver} has {len(usual)} joints, "
                f"the configuration has {', '.join(joints)}"
            )
        ids = {joint: place for place, joint in enumerate(joints, start=1)}
        models = dict(zip(joints, usual, strict=True))
    return ArmServos(
        robot=config.name,
        family=config.driver,
        role=role,
        protocol=kind.protocol,
        ids=ids,
        models=models,
        full_turn=kind.full_turn,
        spans={
            name: (joint.position[1] - joint.position[0]) / _DEGREES_PER_TICK
            for name, joint in config.joints.items()
            if name != _GRIPPER and name not in kind.full_turn
        },
    )
