"""One Damiao motor: its registers, what it answers, and when it switches itself off.

The joint behind it is a rotor with friction; what pulls at it besides (gravity) is given with each step of time.
"""

from __future__ import annotations

from dataclasses import dataclass

from molmoact2_emulators.damiao_codec import (
    CLEAR_ERROR,
    COMMAND_PREFIX,
    DISABLE,
    ENABLE,
    FEEDBACK_OFFSET,
    READ,
    REFRESH,
    REGISTER_ID,
    SAVE,
    SET_ZERO,
    WRITE,
    CanFrame,
    MitCommand,
    Ranges,
    float_of,
    pack_feedback,
    raw_float,
    unpack_mit,
)

DISABLED, ENABLED = 0x0, 0x1
ROTOR_HOT, LINK_LOST, OVERLOAD = 0xC, 0xD, 0xE

TIMEOUT_COUNT_S = 50e-6  # register 9 counts in these
_STEP_S = 1e-3
_DAMPING = 2.0  # Nm s/rad: what a motor does by itself once it got no commands for too long

# Registers: number -> whether it may be written. All others that a motor has read as what they hold and are kept.
_WRITABLE = frozenset(
    {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35}
)
MST_ID, ESC_ID, TIMEOUT, CTRL_MODE, SERIAL, GEAR, PMAX, VMAX, TMAX = 7, 8, 9, 10, 15, 20, 21, 22, 23
OT_VALUE = 2
_MIT_MODE = 1


@dataclass(frozen=True)
class Mechanics:
    """The joint that the motor turns."""

    inertia: float
    """kg m^2, seen from the joint."""
    friction: float
    """Nm s/rad."""
    stops: tuple[float, float]
    """rad: where it ends."""


class DamiaoMotor:
    """A motor and its joint. Time is given: nothing here looks at a clock."""

    AMBIENT_CELSIUS = 32

    def __init__(
        self,
        motor_id: int,
        ranges: Ranges,
        gear: float,
        mechanics: Mechanics,
        position: float,
        timeout: int = 0,
    ) -> None:
        """`position` in rad, `timeout` as register 9 holds it when the motor is switched on (0: none)."""
        self.mechanics = mechanics
        self.position = position
        self.velocity = 0.0
        self.torque = 0.0
        self.status = DISABLED
        self.celsius = self.AMBIENT_CELSIUS
        self._zero = 0.0
        self._command = MitCommand()
        self._heard_s = 0.0
        self._registers: dict[int, int] = {
            0: raw_float(12.0),
            OT_VALUE: raw_float(100.0),
            3: raw_float(0.98),
            MST_ID: motor_id + FEEDBACK_OFFSET,
            ESC_ID: motor_id,
            TIMEOUT: timeout,
            CTRL_MODE: _MIT_MODE,
            13: 0x0101,
            14: 5017,
            SERIAL: 0x20240000 + motor_id,
            GEAR: raw_float(gear),
            PMAX: raw_float(ranges.position),
            VMAX: raw_float(ranges.velocity),
            TMAX: raw_float(ranges.torque),
            35: 4,
        }
        self._flash = dict(self._registers)

    @property
    def id(self) -> int:
        """To which it listens."""
        return self._registers[ESC_ID]

    @property
    def ranges(self) -> Ranges:
        """Its scales now."""
        return Ranges(*(float_of(self._registers[number]) for number in (PMAX, VMAX, TMAX)))

    def power_cycle(self) -> None:
        """Off and on again: disabled, with the registers that were saved; the joint stays where it is."""
        self.status = DISABLED
        self._registers = dict(self._flash)
        self._command = MitCommand()

    def fail(self, status: int) -> None:
        """Switch off with an error."""
        if self.status != status:
            self.status = status
            self._command = MitCommand()

    def take(self, frame: CanFrame, now_s: float) -> CanFrame | None:
        """Return the answer to a frame on the bus; None where it is not for this motor."""
        if frame.extended or frame.remote:
            return None
        if frame.id == REGISTER_ID:
            return self._about_register(frame.data, now_s)
        if frame.id != self.id or len(frame.data) != 8:
            return None
        self._heard_s = now_s
        if frame.data[:7] == COMMAND_PREFIX and frame.data[7] in (CLEAR_ERROR, ENABLE, DISABLE, SET_ZERO):
            self._obey(frame.data[7])
        elif self.status == ENABLED and self._registers[CTRL_MODE] == _MIT_MODE:
            command = unpack_mit(frame.data, self.ranges)
            self._command = MitCommand(
                command.position + self._zero, command.velocity, command.kp, command.kd, command.torque
            )
        return self._feedback()

    def step(self, now_s: float, seconds: float, load: float) -> None:
        """Let time pass; `load` (Nm) is what the motor has to hold besides, such as a weight."""
        timeout_s = self._registers[TIMEOUT] * TIMEOUT_COUNT_S
        if self.status == ENABLED and timeout_s > 0.0 and now_s - self._heard_s > timeout_s:
            self.fail(LINK_LOST)
        if self.celsius > float_of(self._registers[OT_VALUE]):
            self.fail(ROTOR_HOT)
        while seconds > 0.0:
            self._step(min(seconds, _STEP_S), load)
            seconds -= _STEP_S

    def _step(self, seconds: float, load: float) -> None:
        # Implicit in what grows with position and velocity: stable at any gain.
        command, mechanics = self._command, self.mechanics
        kp = kd = torque = 0.0
        if self.status == ENABLED:
            kp, kd = command.kp, command.kd
            torque = kp * (command.position - self.position) + kd * command.velocity + command.torque
        elif self.status == LINK_LOST:
            kd = _DAMPING
        limit = self.ranges.torque
        if abs(torque - kd * self.velocity) > limit:
            push = limit if torque - kd * self.velocity > 0.0 else -limit
            stiffness, damping = 0.0, mechanics.friction
        else:
            push = torque
            stiffness, damping = kp, kd + mechanics.friction
        gain = seconds / mechanics.inertia
        velocity = (self.velocity + gain * (push - load)) / (1.0 + gain * (damping + seconds * stiffness))
        position = self.position + seconds * velocity
        low, high = mechanics.stops
        if not low <= position <= high:
            position, velocity = min(max(position, low), high), 0.0
        self.torque = max(-limit, min(limit, torque - kd * velocity))
        self.position, self.velocity = position, velocity

    def _obey(self, command: int) -> None:
        if command == ENABLE and self.status == DISABLED:
            self.status = ENABLED
            self._command = MitCommand()
        elif (command == DISABLE and self.status == ENABLED) or (
            command == CLEAR_ERROR and self.status > ENABLED
        ):
            self.status = DISABLED
        elif command == SET_ZERO and self.status != ENABLED:
            self._zero = self.position

    def _about_register(self, data: bytes, now_s: float) -> CanFrame | None:
        if len(data) < 4 or int.from_bytes(data[:2], "little") != self.id:
            return None
        answer_id, head = self._registers[MST_ID], data[:4]
        action, number = data[2], data[3]
        if action == REFRESH:
            return self._feedback()
        if action == SAVE:
            self._flash = dict(self._registers)
            return CanFrame(answer_id, head)
        if number not in self._registers or (action == WRITE and len(data) != 8):
            return None
        if action == WRITE and number in _WRITABLE:
            self._registers[number] = int.from_bytes(data[4:], "little")
            if number == TIMEOUT:
                self._heard_s = now_s
        if action in (READ, WRITE):
            return CanFrame(answer_id, head + self._registers[number].to_bytes(4, "little"))
        return None

    def _feedback(self) -> CanFrame:
        data = pack_feedback(
            self.id,
            self.status,
            self.position - self._zero,
            self.velocity,
            self.torque,
            self.AMBIENT_CELSIUS,
            max(0, min(255, self.celsius)),
            self.ranges,
        )
        return CanFrame(self._registers[MST_ID], data)
