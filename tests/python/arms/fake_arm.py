"""Arms that are software: a robot behind a loopback port, and a bus with servos that have encoders and registers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_drivers import Joint, JointUnit, LifeCycle, RobotCapabilities, RobotState, StopPolicy
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.control import LoopbackPort, MailboxPort
from molmoact2_edge.errors import RobotError

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])


def away(**joints: float) -> npt.NDArray[np.float64]:
    """The middle pose with some joints moved away from it: ``away(shoulder_pan=20)``."""
    pose = MIDDLE.copy()
    for joint, by in joints.items():
        pose[JOINTS.index(joint)] += by
    return pose


def configuration() -> RobotConfig:
    """The SO-101's, as it ships."""
    return load_robot("so101")


class FakeRobot:
    """Follows its commands with a lag; remembers how it was stopped."""

    def __init__(
        self, pose: npt.ArrayLike = MIDDLE, joints: Sequence[str] = JOINTS, lag_s: float = 0.01
    ) -> None:
        self.name = "fake arm"
        self.fault: str | None = None
        self.life_cycle = LifeCycle.CONFIGURED
        self.stops: list[StopPolicy] = []
        self.offered = frozenset(StopPolicy)
        self.silent = False
        self._joints = tuple(joints)
        self._port = LoopbackPort(np.asarray(pose, dtype=np.float64), lag_s)

    @property
    def capabilities(self) -> RobotCapabilities:
        joints = tuple(
            Joint(name, JointUnit.PERCENT if name == "gripper" else JointUnit.DEGREES, -180.0, 180.0, 300.0)
            for name in self._joints
        )
        return RobotCapabilities(joints, 200.0, frozenset(), self.offered)

    def activate(self) -> None:
        self.life_cycle = LifeCycle.ACTIVE

    def port(self) -> LoopbackPort:
        return self._port

    def read_state(self) -> RobotState:
        positions, time_ns = self._port.read()
        return RobotState(positions, time_ns)

    def stop(self, policy: StopPolicy) -> None:
        self.stops.append(policy)
        self.life_cycle = LifeCycle.CONFIGURED


class FakeLeader(FakeRobot):
    """A leader that a test moves, silences and breaks."""

    def __init__(self, pose: npt.ArrayLike = MIDDLE, joints: Sequence[str] = JOINTS) -> None:
        super().__init__(pose, joints)
        self.pose = np.array(pose, dtype=np.float64)
        self.recoveries = 0
        self._time_ns = 0

    def read_state(self) -> RobotState:
        if self.life_cycle is LifeCycle.ERROR:
            raise RobotError("the cable is out")
        if not self.silent:
            self._time_ns = time.monotonic_ns()
        return RobotState(self.pose.copy(), self._time_ns)

    def recover(self) -> None:
        self.recoveries += 1
        if self.silent:
            raise RobotError("the cable is still out")
        self.life_cycle = LifeCycle.CONFIGURED


class SilentRobot(FakeRobot):
    """Never reports a pose."""

    def port(self) -> MailboxPort:  # type: ignore[override]
        return MailboxPort(len(self._joints))


@dataclass(frozen=True)
class FakeFound:
    servo: int
    baud: int = 1_000_000
    model_number: int = 777
    model: str | None = "sts3215"
    firmware: str = "3.10"
    errors: tuple[str, ...] = ()


class FakeBus:
    """Servos with ids 1..n: ``encoders`` are what a hand moves, registers what a session reads and writes.

    ``sign`` 1: a reading is the encoder minus the offset (Feetech); -1: plus (Dynamixel).
    """

    def __init__(
        self, encoders: Mapping[int, int], offsets: Mapping[int, int] | None = None, sign: int = 1
    ) -> None:
        self.encoders = dict(encoders)
        self.sign = sign
        self.registers = {
            servo: {
                "homing_offset": (offsets or {}).get(servo, 0),
                "min_position_limit": 0,
                "max_position_limit": 4095,
                "torque_enable": 1,
                "present_voltage": 74,
                "present_temperature": 30,
            }
            for servo in encoders
        }
        self.writes = 0
        self.forgets: set[int] = set()
        self.torque: dict[int, Any] = {}

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self, servo: int, register: str) -> int:
        if register == "present_position":
            return (self.encoders[servo] - self.sign * self.registers[servo]["homing_offset"]) % 4096
        return self.registers[servo][register]

    def read_many(self, servos: Sequence[int], register: str) -> dict[int, int]:
        return {servo: self.read(servo, register) for servo in servos}

    def homing_offset(self, servo: int) -> int:
        return self.registers[servo]["homing_offset"]

    def set_torque(self, servos: Iterable[int], torque: Any) -> None:
        self.torque.update(dict.fromkeys(servos, torque))

    def write_calibration(self, calibration: Mapping[str, Any]) -> None:
        for joint in calibration.values():
            self.writes += 1
            if joint.id not in self.forgets:
                self.registers[joint.id].update(
                    homing_offset=joint.homing_offset,
                    min_position_limit=joint.range_min,
                    max_position_limit=joint.range_max,
                )
