"""What an arm of Dynamixel servos is set to: from a robot's configuration and calibration to registers and scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from molmoact2_drivers.calibration import (
    ArmCalibration,
    ArmRole,
    JointCalibration,
    find_calibration,
    load_calibration,
)
from molmoact2_drivers.dynamixel.control_table import TICKS_PER_TURN, ControlTable
from molmoact2_drivers.dynamixel.servo_bus import (
    DEFAULT_BAUD,
    EXTENDED_POSITION_MODE,
    POSITION_MODE,
    SINGLE_TURN_OFFSET_MAX,
    calibration_registers,
)
from molmoact2_drivers.homing_offsets import homing_offset_max
from molmoact2_drivers.protocol import Joint, JointUnit
from molmoact2_edge._core.dynamixel import ServoJoint
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.config_section import Section
from molmoact2_edge.errors import InputError, RobotError

FAMILY = "koch"
PROTOCOL = "dynamixel"
GRIPPER = "gripper"
MODES = {"position": POSITION_MODE, "extended_position": EXTENDED_POSITION_MODE, "current_position": 5}
_WATCHDOG_UNIT_S = 0.020
_WATCHDOG_MAX = 127
_LAST_TICK = TICKS_PER_TURN - 1  # LeRobot's scale: a turn has 4095 steps

# What is read of each servo at once, in the order that the port knows: register and how many of its low bytes.
_BLOCK = (
    ("present_position", 4),
    ("present_velocity", 4),
    ("present_current", 2),
    ("present_temperature", 1),
    ("hardware_error_status", 1),
    ("bus_watchdog", 1),
    ("status_return_level", 1),
    ("goal_position", 2),
)


@dataclass(frozen=True)
class ServoSettings:
    """One joint's servo."""

    joint: str
    id: int
    model: str | None = None
    """None: any."""
    mode: str = "extended_position"
    """One of MODES: extended positions go on beyond a turn, so that a horn may be mounted anyhow."""
    gains: Mapping[str, int] | None = None
    """Registers of position gains and their values; None leaves what the servo begins with."""
    current_a: float | None = None
    """In mode current_position: the most that it may draw."""

    @property
    def unit(self) -> JointUnit:
        """The gripper in per cent, everything else in degrees."""
        return JointUnit.PERCENT if self.joint == GRIPPER else JointUnit.DEGREES


@dataclass(frozen=True)
class ArmSettings:
    """A whole arm."""

    name: str
    port: str
    servos: tuple[ServoSettings, ...]
    calibration: Mapping[str, JointCalibration]
    baud: int = DEFAULT_BAUD
    watchdog_s: float = 0.2
    """Servos that hear nothing for so long stand still; a multiple of 20 ms."""
    read_limit_s: float = 0.01
    """For one reading of all servos with its retries."""
    silence_s: float = 1.0
    """A servo that is silent, or a port that is gone, for longer is a fault."""

    def __post_init__(self) -> None:
        missing = [servo.joint for servo in self.servos if servo.joint not in self.calibration]
        if missing:
            raise InputError(f"{self.name}: no calibration of {', '.join(missing)}")
        for servo in self.servos:
            if self.calibration[servo.joint].id != servo.id:
                raise InputError(
                    f"{self.name}: {servo.joint} is servo {servo.id} here and servo "
                    f"{self.calibration[servo.joint].id} in its calibration; is it that of another arm?"
                )
            offset = self.calibration[servo.joint].homing_offset
            if MODES[servo.mode] == POSITION_MODE and abs(offset) > SINGLE_TURN_OFFSET_MAX:
                raise InputError(
                    f"{self.name}: {servo.joint} has a homing offset of {offset}, and in mode {servo.mode} a servo "
                    f"ignores one beyond {SINGLE_TURN_OFFSET_MAX}: set its mode to extended_position"
                )
        if not _WATCHDOG_UNIT_S <= self.watchdog_s <= _WATCHDOG_UNIT_S * _WATCHDOG_MAX:
            raise InputError(
                f"{self.name}: bus_watchdog_s must be 0.02 to {_WATCHDOG_UNIT_S * _WATCHDOG_MAX:g}, "
                f"got {self.watchdog_s:g}"
            )

    @property
    def watchdog_units(self) -> int:
        """The watchdog's register: its time rounded up."""
        return math.ceil(round(self.watchdog_s / _WATCHDOG_UNIT_S, 6))


def settings_from_config(config: RobotConfig) -> ArmSettings:
    """Read a configuration's ``connection``, and the calibration that it names.

    Raises:
        InputError: a key is missing or wrong, or there is no such calibration.
    """
    section = Section(Path(f"{config.name}.yaml"), "connection.", config.connection)
    port = section.optional_text("port")
    arm_id = section.optional_text("id")
    file = section.optional_text("calibration")
    baud = section.optional_integer("baud", 9_600, 4_500_000) or DEFAULT_BAUD
    watchdog_s = section.number(
        "bus_watchdog_s", at_least=_WATCHDOG_UNIT_S, at_most=_WATCHDOG_UNIT_S * _WATCHDOG_MAX
    )
    servos = tuple(_servo(name, entry) for name, entry in section.sections("servos", at_most=32))
    section.no_more()
    if port is None:
        raise InputError(f"robot {config.name!r} is on a serial port: say which with --port PATH")
    if [servo.joint for servo in servos] != list(config.joints):
        raise InputError(
            f"{config.name}.yaml: connection.servos: expected the joints {', '.join(config.joints)} in this order, "
            f"got {', '.join(servo.joint for servo in servos)}"
        )
    path = Path(file) if file is not None else find_calibration(FAMILY, ArmRole.FOLLOWER, arm_id)
    offset_max = min(homing_offset_max(PROTOCOL, servo.model) for servo in servos)
    return ArmSettings(
        name=config.name,
        port=port,
        servos=servos,
        calibration=load_calibration(path, tuple(config.joints), offset_max),
        baud=baud,
        watchdog_s=watchdog_s,
        read_limit_s=0.5 / config.loop.rate_hz,
        silence_s=config.loop.silence_fault_s,
    )


def _servo(joint: str, section: Section) -> ServoSettings:
    gains = {
        f"position_{term}_gain": section.optional_integer(f"{term}_gain", 0, 16383)
        for term in ("p", "i", "d")
    }
    given = {register: value for register, value in gains.items() if value is not None}
    servo = ServoSettings(
        joint=joint,
        id=section.integer("id", 0, 252),
        model=section.optional_text("model"),
        mode=section.choice("mode", tuple(MODES)),
        gains=given or None,
        current_a=section.optional_number("current", above=0),
    )
    section.no_more()
    return servo


def lasting_registers(servo: ServoSettings, joint: JointCalibration) -> dict[str, int]:
    """Return what a servo keeps without power."""
    return {
        "return_delay_time": 0,
        "operating_mode": MODES[servo.mode],
        **calibration_registers(joint),
    }


def volatile_registers(servo: ServoSettings, table: ControlTable) -> dict[str, int]:
    """Return what a servo forgets without power, and must be told each time.

    Raises:
        RobotError: the model cannot do what is asked of it.
    """
    registers = {"profile_acceleration": 0, "profile_velocity": 0, **(servo.gains or {})}
    if servo.mode == "current_position":
        if table.amperes_per_count is None:
            raise RobotError(
                f"{servo.joint}: a {table.model} measures no current; set its mode to extended_position"
            )
        if servo.current_a is not None:
            registers["goal_current"] = round(servo.current_a / table.amperes_per_count)
    return registers


def indirect_addresses(table: ControlTable) -> bytes:
    """Return the values of a servo's first indirect addresses, with which its block lies together."""
    addresses = []
    for name, size in _BLOCK:
        if name == "present_current" and name not in table:
            name = "present_load"  # of the same size; the port is told that it is no current
        addresses += [table[name].address + byte for byte in range(size)]
    return b"".join(address.to_bytes(2, "little") for address in addresses)


def whole_turns(joint: JointCalibration, ticks: int) -> int:
    """Return by how many turns a position lies beside the joint's range, to the nearest.

    A servo that got its power begins to count within the encoder's turn, and a range may lie across its end: the same
    pose then reads a whole turn more, or less, than when it was calibrated.
    """
    return round((ticks - (joint.range_min + joint.range_max) / 2) / TICKS_PER_TURN)


def servo_joint(
    servo: ServoSettings, joint: JointCalibration, table: ControlTable, shutdown: int, turns: int = 0
) -> ServoJoint:
    """Return how the port converts a joint; ``shutdown`` is the servo's register of that name, ``turns`` the whole
    turns that it counts too many.

    As LeRobot does it: degrees from the middle of the range, 4095 steps a turn; the gripper from 0 at the lower end to
    100 at the upper.
    """
    scale = units_per_tick(servo, joint)
    percent = servo.unit is JointUnit.PERCENT
    amperes = table.amperes_per_count
    beside = turns * TICKS_PER_TURN
    return ServoJoint(
        id=servo.id,
        block_address=table["indirect_data_1"].address,
        zero_ticks=beside + (joint.range_min if percent else (joint.range_min + joint.range_max) / 2),
        units_per_tick=scale,
        ticks_min=beside + joint.range_min,
        ticks_max=beside + joint.range_max,
        clamp_measured=percent,
        velocity_per_count=table.velocity_unit * TICKS_PER_TURN * scale,
        amperes_per_count=math.nan if amperes is None else amperes,
        fatal_errors=shutdown,
    )


def units_per_tick(servo: ServoSettings, joint: JointCalibration) -> float:
    """Return degrees, or per cent of the range, for each tick."""
    if servo.unit is JointUnit.PERCENT:
        return 100.0 / (joint.range_max - joint.range_min)
    return 360.0 / _LAST_TICK


def position_of(servo: ServoSettings, joint: JointCalibration, ticks: int) -> float:
    """Return a position in the joint's unit, whichever turn the servo counts."""
    ticks -= whole_turns(joint, ticks) * TICKS_PER_TURN
    if servo.unit is JointUnit.PERCENT:
        ticks = min(joint.range_max, max(joint.range_min, ticks))
        return (ticks - joint.range_min) * units_per_tick(servo, joint)
    return (ticks - (joint.range_min + joint.range_max) / 2) * units_per_tick(servo, joint)


def joint_limits(servo: ServoSettings, joint: JointCalibration, velocity_max: float) -> Joint:
    """Return what the joint can do, ``velocity_max`` in turns a second."""
    low, high = (position_of(servo, joint, ticks) for ticks in (joint.range_min, joint.range_max))
    return Joint(
        servo.joint, servo.unit, low, high, velocity_max * TICKS_PER_TURN * units_per_tick(servo, joint)
    )


def koch_leader(port: str, calibration: ArmCalibration, baud: int = DEFAULT_BAUD) -> ArmSettings:
    """Return the leader arm of a Koch v1.1: six small servos that a person moves."""
    servos = tuple(
        ServoSettings(name, joint.id, mode="extended_position") for name, joint in calibration.items()
    )
    return ArmSettings("koch leader", port, servos, calibration, baud)
