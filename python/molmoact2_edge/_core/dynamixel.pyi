from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molmoact2_edge._core.control import Port

BLOCK_BYTES: int
MAX_PACKET_BYTES: int

_Status = Literal["ok", "timed_out", "corrupt", "refused", "lost"]
_Way = Literal["sync", "fast_sync", "bulk", "fast_bulk"]
_Trouble = Literal[
    "none", "link_lost", "servo_reset", "hardware_error", "watchdog_fired", "silent", "dismissed"
]

class _Counters(TypedDict):
    exchanges: int
    timeouts: int
    damaged: int
    retries: int

class _States(TypedDict):
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    currents: NDArray[np.float64]
    temperatures: NDArray[np.float64]
    times_ns: NDArray[np.int64]

def crc16(bytes: bytes, crc: int = 0) -> int: ...
def encode(id: int, instruction: int, parameters: bytes) -> bytes: ...

class PacketParser:
    def __init__(self, longest: int = 1024) -> None: ...
    def feed(self, bytes: bytes) -> list[tuple[int, int, bytes]]: ...
    @property
    def damaged(self) -> int: ...

class Bus:
    def __init__(self, path: str, baud: int, slack_s: float) -> None: ...
    def open(self) -> str: ...
    def close(self) -> None: ...
    @property
    def is_open(self) -> bool: ...
    def exchange(
        self, id: int, instruction: int, parameters: bytes, size: int, timeout_s: float
    ) -> tuple[_Status, int, bytes]: ...
    def broadcast_ping(self, timeout_s: float) -> tuple[_Status, list[tuple[int, int, int]]]: ...
    def read_blocks(
        self, way: _Way, servos: list[tuple[int, int]], length: int, timeout_s: float
    ) -> tuple[_Status, list[bytes | None]]: ...
    def sync_write(self, address: int, length: int, parameters: bytes, timeout_s: float) -> _Status: ...
    def counters(self) -> _Counters: ...

class ServoJoint:
    def __init__(
        self,
        *,
        id: int,
        block_address: int,
        zero_ticks: float,
        units_per_tick: float,
        ticks_min: int,
        ticks_max: int,
        clamp_measured: bool,
        velocity_per_count: float,
        amperes_per_count: float,
        fatal_errors: int,
    ) -> None: ...

class DynamixelPort(Port):
    def __init__(
        self, *, bus: Bus, joints: list[ServoJoint], way: _Way, read_limit_s: float, write_limit_s: float
    ) -> None: ...
    def read(self) -> tuple[NDArray[np.float64], int] | None: ...
    def write(self, positions: ArrayLike) -> bool: ...
    def refresh(self, age_max_s: float) -> _States | None: ...
    def attend(self, idle_max_s: float, silence_max_s: float) -> _Trouble: ...
    def dismiss(self) -> None: ...
    def suspend(self, trouble: _Trouble) -> None: ...
    def resume(self) -> None: ...
    @property
    def trouble(self) -> _Trouble: ...
    @property
    def hardware_errors(self) -> list[int]: ...
    @property
    def lost_goals(self) -> int: ...
