"""Arms of Feetech STS3215 servos: the SO-100 and the SO-101, followers and leaders, and what sets up their servos."""

from __future__ import annotations

from pathlib import Path

from molmoact2_drivers.calibration import (
    SO_JOINTS,
    ArmCalibration,
    ArmRole,
    find_calibration,
    load_calibration,
)
from molmoact2_drivers.feetech.arm import READ_BUDGET_S, SoArm
from molmoact2_drivers.feetech.bus import (
    BAUDS,
    DEFAULT_BAUD,
    STS3215,
    ServoBus,
    Torque,
    error_names,
    scan_port,
)
from molmoact2_drivers.feetech.follower import SoFollower
from molmoact2_drivers.feetech.leader import SoLeader
from molmoact2_drivers.servos import FoundServo
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.config_section import Section
from molmoact2_edge.errors import InputError

__all__ = [
    "BAUDS",
    "DEFAULT_BAUD",
    "STS3215",
    "FoundServo",
    "ServoBus",
    "SoArm",
    "SoFollower",
    "SoLeader",
    "Torque",
    "error_names",
    "from_config",
    "open_leader",
    "scan_port",
]


_SHARE_OF_PERIOD = 0.6


def from_config(config: RobotConfig) -> SoFollower:
    """Return the follower of a configuration's ``connection``, not yet connected.

    Raises:
        InputError: a key is missing, unknown or wrong, or there is no calibration; says what to do.
    """
    if tuple(config.joints) != SO_JOINTS:
        raise InputError(
            f"robot {config.name!r}: an SO arm has the joints {', '.join(SO_JOINTS)}; got {', '.join(config.joints)}"
        )
    section = Section(Path(f"{config.name}.yaml"), "connection.", config.connection)
    port = section.optional_text("port")
    name = section.optional_text("id")
    file = section.optional_text("calibration")
    baud = section.optional_integer("baud", 1, 10_000_000)
    section.no_more()
    if port is None:
        raise InputError(
            f"{config.name}: which port? --port /dev/ttyACM0, say; `molmoact2-edge find-port` finds it"
        )
    calibration = _calibration(config.driver, ArmRole.FOLLOWER, name, None if file is None else Path(file))
    return SoFollower(
        port,
        calibration,
        baud=DEFAULT_BAUD if baud is None else baud,
        name=config.name,
        # A tick has other things to do, too.
        read_budget_s=min(READ_BUDGET_S, _SHARE_OF_PERIOD / config.loop.rate_hz),
    )


def open_leader(
    family: str,
    port: str,
    id: str | None,  # noqa: A002 - LeRobot's word
    calibration: Path | None = None,
    baud: int = DEFAULT_BAUD,
) -> SoLeader:
    """Return a leader of ``family`` (``so100`` or ``so101``), not yet connected.

    Raises:
        InputError: there is no such calibration; names those that exist.
    """
    loaded = _calibration(family, ArmRole.LEADER, id, calibration)
    return SoLeader(port, loaded, baud=baud, name=f"{family} leader")


def _calibration(family: str, role: ArmRole, name: str | None, path: Path | None) -> ArmCalibration:
    return load_calibration(find_calibration(family, role, name) if path is None else path.expanduser())
