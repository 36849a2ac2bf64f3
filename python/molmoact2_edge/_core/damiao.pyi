from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core.control import Port

_Ranges = tuple[float, float, float]

def encode_slcan(can_id: int, data: bytes, extended: bool = False, remote: bool = False) -> bytes: ...

class SlcanParser:
    def __init__(self) -> None: ...
    def feed(self, data: bytes) -> list[tuple[str] | tuple[str, int, bytes, bool, bool]]: ...

def encode_mit(
    position: float, velocity: float, kp: float, kd: float, torque: float, ranges: _Ranges
) -> bytes: ...
def decode_mit(data: bytes, ranges: _Ranges) -> tuple[float, float, float, float, float] | None: ...
def decode_feedback(
    data: bytes, ranges: _Ranges
) -> tuple[int, int, float, float, float, float, float] | None: ...
def status_text(status: int) -> str: ...

class ChainLink:
    def __init__(
        self,
        *,
        position: Sequence[float],
        rotation: Sequence[float],
        axis: Sequence[float],
        mass: float,
        center: Sequence[float],
    ) -> None: ...

class SerialChain:
    def __init__(self, links: Sequence[ChainLink], gravity: Sequence[float]) -> None: ...
    @property
    def joint_count(self) -> int: ...
    def torques(self, angles: ArrayLike) -> NDArray[np.float64]: ...

class ArmWeight:
    def __init__(self, *, chain: SerialChain, first_joint: int, factors: Sequence[float]) -> None: ...

class CanBus:
    @staticmethod
    def slcan(path: str, baud: int, bitrate: int) -> CanBus: ...
    @staticmethod
    def socketcan(interface: str) -> CanBus: ...

class DamiaoJoint:
    def __init__(
        self,
        *,
        bus: int,
        motor_id: int,
        feedback_id: int,
        ranges: _Ranges,
        kp: float,
        kd: float,
        scale: float,
        offset: float,
    ) -> None: ...

class MotorReport(TypedDict):
    position: float
    velocity: float
    torque: float
    driver_celsius: float
    rotor_celsius: float
    time_ns: int
    status: int
    fault: int | None
    silent: bool
    doubted: int

class BusReport(TypedDict):
    path: str
    open: bool
    health: str
    malformed: int
    error: str

class DamiaoReport(TypedDict):
    mode: str
    exchanges: int
    unanswered: int
    motors: list[MotorReport]
    buses: list[BusReport]

class DamiaoPort(Port):
    def __init__(
        self,
        *,
        buses: Sequence[CanBus],
        joints: Sequence[DamiaoJoint],
        weights: Sequence[ArmWeight],
        exchange_timeout_s: float,
        ramp_s: float,
        silence_s: float,
        keep_period_s: float,
    ) -> None: ...
    def open(self) -> str | None: ...
    def close(self) -> None: ...
    def set_mode(self, mode: str) -> bool: ...
    def command(self, joint: int, command: str) -> bool: ...
    def read_register(self, joint: int, address: int) -> int | None: ...
    def write_register(self, joint: int, address: int, value: int) -> bool: ...
    def save_register(self, joint: int, address: int) -> bool: ...
    def clear_faults(self) -> None: ...
    def report(self) -> DamiaoReport: ...
    def read(self) -> tuple[NDArray[np.float64], int, NDArray[np.float64]] | None: ...
    def write(self, positions: ArrayLike) -> bool: ...
