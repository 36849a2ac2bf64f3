"""What the robot file says about a YAM's buses, motors and weight: its ``connection`` section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.config_section import Section
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge._core.damiao import SerialChain

JOINTS = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "gripper")
"""One arm's, in the order of every vector; of two arms, those with ``left_`` come before those with ``right_``."""
SIDES = ("left", "right")
LINKS = 6
FEEDBACK_OFFSET = 0x10
"""A motor answers under its own id and this."""

_GRAVITY = (0.0, 0.0, -9.81)


@dataclass(frozen=True)
class MotorSettings:
    """One motor, as the robot file expects to find it."""

    id: int
    pmax: float
    """rad: full scale of positions in MIT frames, register 21."""
    vmax: float
    """rad/s: register 22."""
    tmax: float
    """Nm: register 23."""
    kp: float
    """Nm/rad."""
    kd: float
    """Nm s/rad."""

    @property
    def ranges(self) -> tuple[float, float, float]:
        """Full scales of position, velocity and torque."""
        return (self.pmax, self.vmax, self.tmax)


@dataclass(frozen=True)
class LinkSettings:
    """A link and the joint that turns it; see ``csrc/bus/damiao/serial_chain.h``."""

    position: tuple[float, ...]
    rotation: tuple[float, ...]
    axis: tuple[float, ...]
    mass: float
    center: tuple[float, ...]


@dataclass(frozen=True)
class GravitySettings:
    """The weight that the motors of joints 1 to 6 carry besides what holds their position."""

    scale: tuple[float, ...]
    links: tuple[LinkSettings, ...]

    def chain(self) -> SerialChain:
        """Return what computes the torques. Raises InputError where the links make no chain."""
        from molmoact2_edge._core.damiao import ChainLink, SerialChain

        try:
            return SerialChain([ChainLink(**vars(link)) for link in self.links], _GRAVITY)
        except ValueError as error:
            raise InputError(f"connection.gravity: {error}") from error


@dataclass(frozen=True)
class ArmSettings:
    """One arm's bus, and where its gripper's motor stands."""

    prefix: str
    """Of its joints' names: ``left_``, ``right_``, or nothing where there is one arm."""
    port: str | None
    """Path of an slcan adapter, or the name of a CAN interface; None: not given yet."""
    gripper_closed: float
    """rad"""
    gripper_open: float
    """rad"""

    @property
    def is_slcan(self) -> bool:
        """Whether the bus is behind an adapter on a serial line."""
        return self.port is not None and "/" in self.port


@dataclass(frozen=True)
class YamSettings:
    """Everything of the ``connection`` section."""

    arms: tuple[ArmSettings, ...]
    baud: int
    """Of an slcan adapter's serial line; adapters on USB take any."""
    bitrate: int
    """Of the CAN bus behind an slcan adapter; an interface has its own."""
    motors: tuple[MotorSettings, ...]
    """(7,) of each arm."""
    timeout_s: float
    """Without commands for longer the motors brake by themselves and stop following."""
    timeout_count_s: float
    """One count of register 9."""
    ramp_s: float
    """From no stiffness to all of it, once motors are switched on."""
    gravity: GravitySettings | None

    @property
    def timeout_counts(self) -> int:
        """What register 9 must hold."""
        return round(self.timeout_s / self.timeout_count_s)


def read_settings(config: RobotConfig) -> YamSettings:
    """Return the checked ``connection`` section.

    Raises:
        InputError: a key is wrong, or the joints are not those of one YAM or two; says which.
    """
    section = Section(Path(f"{config.name}.yaml"), "connection.", config.connection)
    names = tuple(config.joints)
    bimanual = tuple(f"{side}_{joint}" for side in SIDES for joint in JOINTS)
    if names not in (JOINTS, bimanual):
        raise InputError(
            f"{config.name}: joints: expected {', '.join(bimanual)} or {', '.join(JOINTS)}, got {names}"
        )
    gripper = section.section("gripper")
    closed, opened = gripper.number("closed"), gripper.number("open")
    gripper.no_more()
    if names == JOINTS:
        arms: tuple[ArmSettings, ...] = (
            ArmSettings("", section.optional_text("port"), *_distinct(config, closed, opened)),
        )
    else:
        arms = tuple(_arm(config, section.section(side), side, closed, opened) for side in SIDES)
    motors = section.section("motors")
    settings = YamSettings(
        arms=arms,
        baud=section.integer("baud", 1, 20_000_000),
        bitrate=section.integer("bitrate", 10_000, 1_000_000),
        motors=tuple(_motor(motors.section(joint)) for joint in JOINTS),
        timeout_s=section.number("timeout_s", at_least=0.05, at_most=5.0),
        timeout_count_s=section.number("timeout_count_s", above=0.0, at_most=0.01),
        ramp_s=section.number("ramp_s", at_least=0.0, at_most=10.0),
        gravity=_gravity(config, section.optional_mapping("gravity")),
    )
    motors.no_more()
    section.no_more()
    ids = [motor.id for motor in settings.motors]
    if len(set(ids)) != len(ids):
        raise InputError(f"{config.name}: connection.motors: each has an id of its own, got {ids}")
    return settings


def _arm(config: RobotConfig, section: Section, side: str, closed: float, opened: float) -> ArmSettings:
    port = section.optional_text("port")
    # One arm may have been put together otherwise than the other.
    own_closed = section.optional_number("gripper_closed", above=-math.inf)
    own_open = section.optional_number("gripper_open", above=-math.inf)
    section.no_more()
    ends = _distinct(
        config, closed if own_closed is None else own_closed, opened if own_open is None else own_open
    )
    return ArmSettings(f"{side}_", port, *ends)


def _distinct(config: RobotConfig, closed: float, opened: float) -> tuple[float, float]:
    if abs(opened - closed) < 0.1:
        raise InputError(
            f"{config.name}: connection.gripper: closed and open are where the motor stands then, in rad and apart; "
            f"got {closed:g} and {opened:g}"
        )
    return closed, opened


def _motor(section: Section) -> MotorSettings:
    motor = MotorSettings(
        id=section.integer("id", 1, FEEDBACK_OFFSET - 1),
        pmax=section.number("pmax", above=0.0),
        vmax=section.number("vmax", above=0.0),
        tmax=section.number("tmax", above=0.0),
        kp=section.number("kp", at_least=0.0, at_most=500.0),
        kd=section.number("kd", at_least=0.0, at_most=5.0),
    )
    section.no_more()
    return motor


def _gravity(config: RobotConfig, data: dict[str, object]) -> GravitySettings | None:
    if not data:
        return None
    section = Section(Path(f"{config.name}.yaml"), "connection.gravity.", data)
    gravity = GravitySettings(
        scale=section.numbers("scale", LINKS),
        links=tuple(_link(section.section(f"link_{number}")) for number in range(1, LINKS + 1)),
    )
    section.no_more()
    return gravity


def _link(section: Section) -> LinkSettings:
    link = LinkSettings(
        position=section.numbers("position", 3),
        rotation=section.numbers("rotation", 4),
        axis=section.numbers("axis", 3),
        mass=section.number("mass", at_least=0.0),
        center=section.numbers("center", 3),
    )
    section.no_more()
    return link
