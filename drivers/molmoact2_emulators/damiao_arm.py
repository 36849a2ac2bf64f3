"""Seven Damiao motors on one CAN bus at 1 Mbit/s, and what goes wrong on it. Time is given, in nanoseconds."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

from molmoact2_emulators.damiao_codec import CanFrame, Ranges
from molmoact2_emulators.damiao_motor import OVERLOAD, DamiaoMotor, Mechanics
from molmoact2_emulators.faults import FaultPlan

FAULTS: dict[str, tuple[str, ...]] = {
    "drop": ("probability",),
    "delay": ("probability", "seconds"),
    "duplicate": ("probability",),
    "absent": ("servo",),
    "overload": ("servo",),
    "overtemperature": ("servo", "celsius"),
    "comm_loss": ("motor",),
}
"""Of the bus; `servo` and `motor` count the motors from 1, those of a second arm from 8."""

MOTORS = 7
BIT_NS = 1000  # 1 Mbit/s
TURNAROUND_NS = 40_000  # from a command's end to the answer's first try

DM4340 = Ranges(12.5, 10.0, 28.0)
DM4310 = Ranges(12.5, 30.0, 10.0)

# What i2rt sets in its arms: a fifth of a second in counts of 50 us.
SHIPPED_TIMEOUT = 4000

# The joints' ranges in rad, with a little play at the stops; the gripper turns 6.57 rad.
_STOPS = (
    (-2.66, 3.18),
    (-0.04, 3.70),
    (-0.04, 3.18),
    (-1.73, 1.61),
    (-1.61, 1.61),
    (-2.13, 2.13),
    (-0.10, 6.67),
)
# kg m^2 and Nm s/rad: chosen so that the arm moves as one of its size does with the gains of its maker; not measured.
_INERTIA = (0.30, 0.30, 0.20, 0.03, 0.02, 0.01, 0.01)
_FRICTION = (2.0, 2.0, 1.5, 0.3, 0.2, 0.2, 0.05)
_GEARS = (40.0, 40.0, 40.0, 10.0, 10.0, 10.0, 10.0)

Loads = Callable[[Sequence[float]], Sequence[float]]
"""Angles (rad) of the first joints to the torques (Nm) that hold their weight."""


def frame_bits(frame: CanFrame) -> int:
    """Return how many bits a frame takes on the bus, the pause after it included.

    Stuffing depends on the contents; half of the most that is possible is counted.
    """
    data = 0 if frame.remote else 8 * len(frame.data)
    header, stuffed = (67, 54) if frame.extended else (47, 34)
    return header + data + (stuffed + data - 1) // 8


def yam_motors(pose: Sequence[float], vmax_4340: float = DM4340.velocity) -> list[DamiaoMotor]:
    """Return the motors of an arm that stands at a pose (7,) in rad; `vmax_4340` is register 22 of the big ones."""
    shoulder = Ranges(DM4340.position, vmax_4340, DM4340.torque)
    return [
        DamiaoMotor(
            index + 1,
            shoulder if index < 3 else DM4310,
            _GEARS[index],
            Mechanics(_INERTIA[index], _FRICTION[index], _STOPS[index]),
            position,
            SHIPPED_TIMEOUT,
        )
        for index, position in enumerate(pose)
    ]


class DamiaoArm:
    """The motors, the bus between them, and the faults of both."""

    def __init__(
        self,
        motors: Sequence[DamiaoMotor],
        faults: FaultPlan,
        now_ns: int,
        loads: Loads | None = None,
        first_motor: int = 1,
    ) -> None:
        """`first_motor` is the number under which faults know the first one; `loads` None: an arm without weight."""
        self.motors = list(motors)
        self._faults = faults
        self._loads = loads
        self._first = first_motor
        self._now_ns = now_ns
        self._free_ns = now_ns
        self._absent = [False] * len(self.motors)
        self._late: list[tuple[int, int, CanFrame]] = []
        self._sequence = 0

    def advance(self, now_ns: int) -> None:
        """Let the arm move, and the faults of its motors begin and end, up to a time."""
        if now_ns <= self._now_ns:
            return
        seconds = (now_ns - self._now_ns) * 1e-9
        self._now_ns = now_ns
        self._apply_faults()
        loads: Sequence[float] = ()
        if self._loads is not None:
            loads = self._loads([motor.position for motor in self.motors])
        for index, motor in enumerate(self.motors):
            motor.step(now_ns * 1e-9, seconds, loads[index] if index < len(loads) else 0.0)

    def send(self, frames: Sequence[CanFrame], now_ns: int) -> None:
        """Put the host's frames on the bus; what the motors answer comes with :meth:`arrived`.

        The bus carries one frame at a time, and of those that wait the one with the lowest id first.
        """
        waiting = [(now_ns, frame, False) for frame in frames]
        while waiting:
            start_ns = max(self._free_ns, min(ready for ready, _, _ in waiting))
            ready = [entry for entry in waiting if entry[0] <= start_ns]
            entry = min(ready, key=lambda entry: entry[1].id)
            waiting.remove(entry)
            _, frame, from_motor = entry
            self._free_ns = start_ns + frame_bits(frame) * BIT_NS
            if self._faults.strikes("drop") is not None:
                continue
            if from_motor:
                self._deliver(frame, self._free_ns)
            else:
                self.advance(self._free_ns)
                waiting += [(self._free_ns + TURNAROUND_NS, answer, True) for answer in self._answers(frame)]

    def arrived(self, now_ns: int) -> list[tuple[int, CanFrame]]:
        """Return (time, frame) of what the host's adapter has received by `now_ns`, oldest first."""
        frames = []
        while self._late and self._late[0][0] <= now_ns:
            time_ns, _, frame = heapq.heappop(self._late)
            frames.append((time_ns, frame))
        return frames

    def next_arrival_ns(self) -> int | None:
        """Return when the adapter receives the next frame; None while none is under way."""
        return self._late[0][0] if self._late else None

    def _answers(self, frame: CanFrame) -> list[CanFrame]:
        answers = []
        for index, motor in enumerate(self.motors):
            if self._absent[index] or self._faults.on("comm_loss", motor=self._first + index):
                continue
            answer = motor.take(frame, self._free_ns * 1e-9)
            if answer is not None:
                answers.append(answer)
        return answers

    def _deliver(self, frame: CanFrame, time_ns: int) -> None:
        delay = self._faults.strikes("delay")
        if delay is not None:
            time_ns += round(delay["seconds"] * 1e9)
        for _ in range(1 if self._faults.strikes("duplicate") is None else 2):
            self._sequence += 1
            heapq.heappush(self._late, (time_ns, self._sequence, frame))

    def _apply_faults(self) -> None:
        hot = {
            fault.integer("servo"): int(fault["celsius"]) for fault in self._faults.active("overtemperature")
        }
        for index, motor in enumerate(self.motors):
            number = self._first + index
            absent = self._faults.on("absent", servo=number)
            if self._absent[index] and not absent:
                motor.power_cycle()
            self._absent[index] = absent
            motor.celsius = hot.get(number, motor.AMBIENT_CELSIUS)
            if self._faults.on("overload", servo=number):
                motor.fail(OVERLOAD)


def pose_radians(degrees: Sequence[float], gripper_percent: float, gripper_open: float) -> list[float]:
    """Return (7,) rad from six joints in degrees and a gripper from 0 to 100."""
    return [*(math.radians(angle) for angle in degrees), gripper_percent / 100.0 * gripper_open]
