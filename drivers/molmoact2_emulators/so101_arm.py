"""The emulated SO-101 without its wire: six servos, what they move, and what a person or a fault does to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_bus import Bus
from molmoact2_emulators.feetech_registers import CENTRE
from molmoact2_emulators.feetech_servo import Servo, Torque
from molmoact2_emulators.so101_calibration import (
    GRIPPER,
    GRIPPER_DEGREES,
    JOINTS,
    MIDDLE,
    REACH,
    TICKS_PER_DEGREE,
    JointCalibration,
    Mounting,
    mounting,
)
from molmoact2_emulators.so101_mechanics import Mechanics

FAULTS: Mapping[str, tuple[str, ...]] = {
    "power_loss": (),
    "absent": ("servo",),
    "only": ("servo",),
    "overload": ("servo",),
    "overtemperature": ("servo", "celsius"),
    "locked": (),
    "hand": ("servo", "degrees"),
    "middle": (),
    "sweep": (),
}
"""What can happen to the arm. Servos count from 1 along the chain; a hand moves those whose torque is off."""

_MAX_CATCH_UP_S = 0.1  # what the arm missed beyond this, it never lived through
_FAULTS_EVERY_S = 0.01
_SWEEP_SPEED = 60.0  # degrees or percent a second
_HORN_SLACK = 400  # ticks by which a horn is mounted beside the middle
# As LeRobot leaves an arm that it has configured.
_CONFIGURED = {"return_delay": 0, "max_acceleration": 254, "p_gain": 16, "d_gain": 32, "i_gain": 0}
_CONFIGURED_GRIPPER = {"max_torque": 500, "protection_current": 250, "overload_torque": 25}


def calibrated_servos(calibration: Mapping[str, JointCalibration]) -> tuple[list[Servo], list[Mounting]]:
    """Return the servos of an arm that LeRobot has calibrated and configured, and how they are mounted."""
    servos, mountings = [], []
    for number, name in enumerate(JOINTS):
        joint = calibration[name]
        servo = Servo()
        servo.set_factory(
            id=joint.id,
            homing_offset=joint.homing_offset,
            min_angle=joint.range_min,
            max_angle=joint.range_max,
            **_CONFIGURED,
            **(_CONFIGURED_GRIPPER if number == GRIPPER else {}),
        )
        servos.append(servo)
        mountings.append(mounting(number, joint))
    return servos, mountings


def unpacked_servos(seed: int) -> tuple[list[Servo], list[Mounting]]:
    """Return servos as their maker ships them, all with id 1, in an arm that was put together by hand."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
    mountings = []
    for number, (low, high) in enumerate(REACH):
        horn = CENTRE + chance.randint(-_HORN_SLACK, _HORN_SLACK)
        per_tick = 1.0 / TICKS_PER_DEGREE
        if number == GRIPPER:
            per_tick = (high - low) / (GRIPPER_DEGREES * TICKS_PER_DEGREE)
        mountings.append(Mounting(horn - MIDDLE[number] / per_tick, per_tick))
    return [Servo() for _ in REACH], mountings


def stops(mountings: Sequence[Mounting]) -> list[tuple[float, float]]:
    """Return where the arm's parts stop each shaft, in ticks, the lower first."""
    ends = [(m.ticks(low), m.ticks(high)) for m, (low, high) in zip(mountings, REACH, strict=True)]
    return [(min(pair), max(pair)) for pair in ends]


class EmulatedArm:
    """Servos that push against mechanics, under a plan of faults. One thread uses it."""

    def __init__(
        self,
        servos: Sequence[Servo],
        mountings: Sequence[Mounting],
        mechanics: Mechanics,
        plan: FaultPlan,
        now_ns: int,
    ) -> None:
        self.bus = Bus(servos)
        self._servos = self.bus.servos
        self._mountings = tuple(mountings)
        self._mechanics = mechanics
        self._plan = plan
        self._now_ns = now_ns
        self._step_ns = round(mechanics.step_s * 1e9)
        self._faults_due_ns = now_ns
        self._hands: list[float | None] = [None] * len(self._servos)
        self._sweep_s = 0.0
        self.powered = True
        """Whether the servos have power."""
        for servo, shaft in zip(self._servos, mechanics.shafts, strict=True):
            servo.shaft = shaft
            servo.lose_power()

    def advance(self, now_ns: int, after_each_look: Callable[[], None] | None = None) -> None:
        """Bring the arm to a time, monotonic ns; `after_each_look` is called whenever faults were looked at."""
        behind_ns = now_ns - self._now_ns
        if behind_ns > _MAX_CATCH_UP_S * 1e9:
            self._now_ns = now_ns - round(_MAX_CATCH_UP_S * 1e9)
        while self._now_ns + self._step_ns <= now_ns:
            self._now_ns += self._step_ns
            if self._now_ns >= self._faults_due_ns:
                self._faults_due_ns = self._now_ns + round(_FAULTS_EVERY_S * 1e9)
                self._look_at_faults()
                if after_each_look is not None:
                    after_each_look()
            dt = self._mechanics.step_s
            drives = [servo.step(dt) for servo in self._servos]
            if self._mechanics.step(drives, self._hands):
                for servo in self._servos:
                    servo.rest_here()

    def _look_at_faults(self) -> None:
        plan = self._plan
        if plan.empty:
            return
        powered = not plan.on("power_loss")
        if self.powered and not powered:
            for servo in self._servos:
                servo.lose_power()
        self.powered = powered
        only = {fault.integer("servo") for fault in plan.active("only")}
        heat = {fault.integer("servo"): fault["celsius"] for fault in plan.active("overtemperature")}
        locked = plan.on("locked")
        for number, servo in enumerate(self._servos, start=1):
            there = not plan.on("absent", servo=number) and (not only or number in only)
            self.bus.connected[number - 1] = powered and there
            servo.faults.overload = plan.on("overload", servo=number)
            servo.faults.heat_to_c = heat.get(number)
            servo.faults.eeprom_locked = locked
        self._move_hands()

    def _move_hands(self) -> None:
        plan = self._plan
        middle, sweep = plan.on("middle"), plan.on("sweep")
        self._sweep_s = self._sweep_s + _FAULTS_EVERY_S if sweep else 0.0
        asked = {fault.integer("servo"): fault["degrees"] for fault in plan.active("hand")}
        for joint, (low, high) in enumerate(REACH):
            units: float | None = None
            if joint + 1 in asked:
                units = asked[joint + 1]
            elif sweep:
                units = _swept(low, high, MIDDLE[joint], self._sweep_s)
            elif middle:
                units = MIDDLE[joint]
            free = self._servos[joint].drive.torque is Torque.FREE
            self._hands[joint] = self._mountings[joint].ticks(units) if units is not None and free else None


def _swept(low: float, high: float, middle: float, seconds: float) -> float:
    """Return where a hand is that goes from the middle to the upper end, the lower one, and back, for ever."""
    span = high - low
    way = (seconds * _SWEEP_SPEED) % (2 * span)
    if way < high - middle:
        return middle + way
    if way < high - middle + span:
        return high - (way - (high - middle))
    return low + (way - (high - middle) - span)
