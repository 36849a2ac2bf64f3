"""What moves when the servos push: the interface, and the light one, in which every joint is a servo by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from molmoact2_emulators.feetech_servo import Drive, Shaft, Torque

_FREQUENCY = 60.0  # rad/s, of the position loop at the nominal gain
_STIFFNESS = _FREQUENCY**2
_DAMPING = 2.0 * _FREQUENCY  # critical at the nominal gain
_GREATEST_ACCELERATION = 40_000.0  # ticks/s^2 at full torque
_GREATEST_SPEED = 3_400.0  # ticks/s: an STS3215 at 7.4 V turns about 50 times a minute
_FREE_DAMPING = 15.0
_BRAKED_DAMPING = 80.0
_HAND_GAIN = 20.0  # 1/s
_HAND_SPEED = 1_000.0  # ticks/s


class Mechanics(Protocol):
    """The moving parts of the arm."""

    step_s: float
    """What one step lasts."""

    @property
    def shafts(self) -> Sequence[Shaft]:
        """One for each servo; they change with `step`."""

    def step(self, drives: Sequence[Drive], hands: Sequence[float | None]) -> bool:
        """Let `step_s` pass. A hand moves a shaft whose motor is free to a place in ticks.

        Returns:
            Whether the arm was picked up and put elsewhere meanwhile.
        """

    def close(self) -> None:
        """End what runs."""


class LightMechanics:
    """Second-order servos with limited speed and torque between two stops; no gravity, nothing to touch."""

    step_s = 0.002

    def __init__(self, shafts: Sequence[Shaft], stops: Sequence[tuple[float, float]]) -> None:
        """`stops` are in ticks, lower first."""
        self.shafts = tuple(shafts)
        self._stops = tuple(stops)

    def step(self, drives: Sequence[Drive], hands: Sequence[float | None]) -> bool:
        """See `Mechanics`."""
        for shaft, stop, drive, hand in zip(self.shafts, self._stops, drives, hands, strict=True):
            _move(shaft, stop, drive, hand, self.step_s)
        return False

    def close(self) -> None:
        """Nothing runs."""


def _move(shaft: Shaft, stops: tuple[float, float], drive: Drive, hand: float | None, dt: float) -> None:
    speed = shaft.speed
    if drive.torque is Torque.FOLLOWING:
        error = drive.set_point - shaft.position
        if error == 0.0 and speed == 0.0:
            shaft.load = 0.0
            return
        push = (_STIFFNESS * drive.stiffness * error - _DAMPING * speed) / _GREATEST_ACCELERATION
        push = min(max(push, -drive.limit), drive.limit)
        shaft.load = push
        speed += push * _GREATEST_ACCELERATION * dt
        if abs(error) < 1e-3 and abs(speed) < 1e-2:
            shaft.position, speed = drive.set_point, 0.0
    else:
        shaft.load = 0.0
        if hand is not None and drive.torque is Torque.FREE:
            speed = min(max((hand - shaft.position) * _HAND_GAIN, -_HAND_SPEED), _HAND_SPEED)
        else:
            speed *= max(0.0, 1.0 - dt * (_FREE_DAMPING if drive.torque is Torque.FREE else _BRAKED_DAMPING))
            if abs(speed) < 1.0:
                speed = 0.0
    speed = min(max(speed, -_GREATEST_SPEED), _GREATEST_SPEED)
    position = shaft.position + speed * dt
    low, high = stops
    if not low <= position <= high:
        position, speed = min(max(position, low), high), 0.0
    shaft.position, shaft.speed = position, speed
