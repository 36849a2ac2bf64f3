"""The inside of an emulated Robotiq 2F-85: its registers, its fingers, its faults."""

from __future__ import annotations

OPEN_COUNT = 3
CLOSED_COUNT = 228
_STROKE_MM = 85.0
_SLOWEST_MM_S, _FASTEST_MM_S = 20.0, 150.0
_COUNTS_PER_MM = (CLOSED_COUNT - OPEN_COUNT) / _STROKE_MM
_ACTIVATION_MM_S = 100.0
_IDLE_COUNTS, _MOVING_COUNTS, _GRIP_COUNTS = 0, 12, 40  # of current, 10 mA each

ACTIVATE = 0x01
GO = 0x08
RELEASE = 0x10
RELEASE_DIRECTION = 0x20

MOVING, STOPPED_OPENING, STOPPED_CLOSING, ARRIVED = range(4)
RESET, ACTIVATING, ACTIVATED = 0, 1, 3

FAULT_DELAYED = 0x05
FAULT_NOT_ACTIVATED = 0x07
FAULT_HOT = 0x08
FAULT_RELEASING = 0x0B
FAULT_CURRENT = 0x0E
FAULT_RELEASED = 0x0F
_HOT_CELSIUS = 85.0


class GripperModel:
    """Registers in, registers out; ``advance`` lets time pass. Positions in counts, 0 open to 255 closed."""

    def __init__(self, now_s: float) -> None:
        self.object_count: float | None = None
        """Where something is between the fingers; None: nothing."""
        self.celsius = 30.0
        self.overloaded = False
        self._now_s = now_s
        self._action = 0
        self._request = 0
        self._speed = 0
        self._force = 0
        self._position = float(OPEN_COUNT + 80)  # as somebody left it
        self._activation = RESET
        self._way: list[float] = []  # still to go in the activation
        self._contact = MOVING
        self._fault = 0
        self._current = _IDLE_COUNTS

    # --- registers ---

    def command_registers(self) -> tuple[int, int, int]:
        """Return what was written last."""
        return self._action << 8, self._request, self._speed << 8 | self._force

    def command(self, registers: tuple[int, int, int]) -> None:
        """Take what is written at 0x03E8."""
        action = registers[0] >> 8
        rising = action & ACTIVATE and not self._action & ACTIVATE
        if not action & ACTIVATE:
            self._reset()
        elif rising:
            self._activation = ACTIVATING
            self._way = [float(CLOSED_COUNT), float(OPEN_COUNT)]
            self._fault = 0
        self._action = action
        self._request = registers[1] & 0xFF
        self._speed, self._force = registers[2] >> 8, registers[2] & 0xFF
        if action & GO and self._activation != ACTIVATED:
            self._fault = FAULT_DELAYED if self._activation == ACTIVATING else FAULT_NOT_ACTIVATED

    def status_registers(self) -> tuple[int, int, int]:
        """Return what is read at 0x07D0."""
        status = (self._action & ACTIVATE) | (self._action & GO) | self._activation << 4 | self._contact << 6
        return status << 8, self._fault << 8 | self._request, round(self._position) << 8 | self._current

    # --- time ---

    def _reset(self) -> None:
        self._activation = RESET
        self._contact = MOVING
        self._fault = 0
        self._way = []

    def advance(self, now_s: float) -> None:
        """Move the fingers for the time that has passed."""
        seconds = now_s - self._now_s
        self._now_s = now_s
        self._judge()
        self._current = _IDLE_COUNTS
        if self._activation == ACTIVATING:
            self._activate(seconds * _ACTIVATION_MM_S * _COUNTS_PER_MM)
        elif self._activation == ACTIVATED and self._action & RELEASE:
            self._fault = FAULT_RELEASING
            goal = CLOSED_COUNT if self._action & RELEASE_DIRECTION else OPEN_COUNT
            if self._go(goal, seconds * _SLOWEST_MM_S * _COUNTS_PER_MM) != MOVING:
                self._fault = FAULT_RELEASED
                self._activation = RESET
        elif (
            self._activation == ACTIVATED
            and self._action & GO
            and self._fault not in (FAULT_HOT, FAULT_CURRENT)
        ):
            speed = _SLOWEST_MM_S + (_FASTEST_MM_S - _SLOWEST_MM_S) * self._speed / 255.0
            goal = min(max(self._request, OPEN_COUNT), CLOSED_COUNT)
            self._contact = self._go(goal, seconds * speed * _COUNTS_PER_MM)

    def _judge(self) -> None:
        if self.celsius >= _HOT_CELSIUS:
            self._fault = FAULT_HOT
        elif self._fault == FAULT_HOT:
            self._fault = 0
        if self.overloaded:
            self._fault = FAULT_CURRENT
        if self._fault == FAULT_DELAYED and self._activation == ACTIVATED:
            self._fault = 0

    def _activate(self, counts: float) -> None:
        while counts > 0.0 and self._way:
            goal, before = self._way[0], self._position
            if self._go(goal, counts) != MOVING:
                self._way.pop(0)
            counts -= abs(self._position - before)
            if self._position == before and self._way and self._way[0] == goal:
                return
        if not self._way:
            self._activation = ACTIVATED

    def _go(self, goal: float, counts: float) -> int:
        """Move by at most so many counts; returns how it stands to the goal then."""
        end = goal
        if self.object_count is not None and self._position <= self.object_count < goal:
            end = self.object_count
        left = end - self._position
        if abs(left) > counts:
            self._position += counts if left > 0.0 else -counts
            self._current = _MOVING_COUNTS
            return MOVING
        self._position = float(end)
        if end != goal:
            self._current = _GRIP_COUNTS + self._force // 4
            return STOPPED_CLOSING
        return ARRIVED
