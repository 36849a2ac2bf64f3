"""One STS3215: what its registers do to its motor, and its motor to its registers.

Where the public sources are silent or disagree, this servo does the following:

- Register 7 acts: it waits 2 us times its value before it answers.
- Speeds count 1 tick/s, or 50 where bit 2 of the phase register is set; as shipped here it is clear.
- EEPROM writes act at once in any case; those made under lock 1 are gone with the power. Lock is 1 after power-up.
- Torque enable 128 sets the homing offset so that the present position is 2048, and keeps it whatever the lock says.
- With angle limits the present position is (encoder - offset) modulo 4096. With both limits 0 it counts turns.
- A goal outside the angle limits is held at the limit; the goal register shows what was written.
- Turning torque on drives to the goal register, which is the present position after power-up and nothing newer.
- Load and current are what the motor does, averaged over about 0.1 s; so are the limits that they are held against.
- A load of at least overload torque for protection time, or a current of at least protection current for over-current
  time, limits the torque to protective torque and sets the error bit, until torque is turned on anew or power is lost.
- Above the maximum temperature torque is turned off. The error bit goes when the motor has cooled.
- What may unload the motor is chosen by the unloading register; error bits come regardless.
- Mode 2 (PWM) turns as fast as an unloaded motor would.
- A value above a register's highest is not taken, and the answer does not tell.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from molmoact2_emulators import feetech_registers as reg
from molmoact2_emulators.feetech_registers import Memory, Register

_AMPERES_PER_UNIT = 0.0065
_STALL_AMPERES = 2.4
_IDLE_AMPERES = 0.006
_VOLTS = 7.4
_VOLTS_LOST_AT_STALL = 0.4
_AMBIENT_C = 27.0
_HEATING_C_PER_S = 0.5  # at full load
_COOLING_PER_S = 0.004
_FAULT_C_PER_S = 30.0
_FULL_SPEED = 3400.0  # ticks/s without load at 7.4 V
_CENTRE_COMMAND = 128
_DAMPING = 2
_P_NOMINAL = 16.0  # what LeRobot sets; the dynamics are those of this gain
_HOUSEKEEPING_S = 0.1
_NEAR_TICKS = 0.5
_LOAD_AVERAGE_S = 0.1
# What clients ask for all the time.
_POSITION_ONLY = (reg.PRESENT_POSITION.address, reg.PRESENT_POSITION.size)


class Torque(enum.Enum):
    """What the motor does."""

    FREE = "free"
    DAMPED = "damped"
    FOLLOWING = "following"


@dataclass
class Shaft:
    """Where a motor's output shaft is; whoever simulates the arm writes it."""

    position: float = float(reg.CENTRE)
    """Ticks of the encoder, turns counted on."""
    speed: float = 0.0
    """Ticks/s."""
    load: float = 0.0
    """Torque as a share of the motor's greatest, -1..1."""


@dataclass
class Drive:
    """What the servo asks of its motor."""

    torque: Torque = Torque.FREE
    set_point: float = float(reg.CENTRE)
    """Where the shaft should be, in its own ticks."""
    stiffness: float = 1.0
    """Position gain as a multiple of the nominal one."""
    limit: float = 1.0
    """Greatest torque as a share of the motor's."""


@dataclass
class Faults:
    """What goes wrong inside, from outside."""

    overload: bool = False
    heat_to_c: float | None = None
    eeprom_locked: bool = False


@dataclass
class _Protection:
    """A limit that counts only when it is exceeded for a time."""

    since_s: float = 0.0
    tripped: bool = False

    def watch(self, above: bool, dt: float, patience_s: float) -> None:
        self.since_s = self.since_s + dt if above else 0.0
        self.tripped = self.tripped or (above and self.since_s >= patience_s)

    def clear(self) -> None:
        self.since_s, self.tripped = 0.0, False


@dataclass
class Servo:
    """A servo with power. `step` lets time pass; everything else happens at an instant."""

    shaft: Shaft = field(default_factory=Shaft)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.drive = Drive()
        self._pending: tuple[int, bytes] | None = None
        self._profile_speed = 0.0
        self._own_heat_c = self._fault_heat_c = 0.0  # above the room
        self._overload = _Protection()
        self._over_current = _Protection()
        self._load = 0.0
        self._too_hot = False
        self._wrong_voltage = False
        self._since_housekeeping_s = 0.0
        self._power_up()

    @property
    def id(self) -> int:
        """The id that it listens to now."""
        return self.memory[reg.ID]

    @property
    def baud(self) -> int:
        """The rate that it listens at now."""
        return reg.BAUDS[self.memory[reg.BAUD]]

    @property
    def answers_writes(self) -> bool:
        """Whether it answers more than PING and READ."""
        return self.memory[reg.RESPONSE_LEVEL] == 1

    @property
    def return_delay_ns(self) -> int:
        """What it waits before an answer."""
        return 2_000 * self.memory[reg.RETURN_DELAY]

    @property
    def error(self) -> int:
        """The error byte of its answers."""
        return (
            (reg.VOLTAGE_ERROR if self._wrong_voltage else 0)
            | (reg.TEMPERATURE_ERROR if self._too_hot else 0)
            | (reg.CURRENT_ERROR if self._over_current.tripped else 0)
            | (reg.OVERLOAD_ERROR if self._overload.tripped else 0)
        )

    def present_position(self) -> int:
        """Return what register 56 says."""
        position = round(self.shaft.position) - self.memory[reg.HOMING_OFFSET]
        return position if self._turns_count() else position % reg.TICKS

    def set_factory(self, **values: int) -> None:
        """Give registers, by name, other values that survive the loss of power: as its maker or owner left it."""
        for register in reg.STS3215:
            if register.name in values:
                self.memory.put_value(register, values.pop(register.name))
                self.memory.keep(register)
        assert not values, values
        self._power_up()

    def read(self, address: int, length: int) -> bytes:
        """Return memory with the present state in it."""
        if address + length > reg.PRESENT_POSITION.address:
            if (address, length) == _POSITION_ONLY:
                return reg.PRESENT_POSITION.encode(self.present_position()).to_bytes(2, "little")
            self._refresh()
        return self.memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Take the bytes that may be written; the others stay as they are."""
        end = address + len(data)
        at = address
        while at < end:
            register = reg.AT.get(at)
            if register is None:
                at += 1
                continue
            start, at = register.address, register.address + register.size
            if not register.writable or (register.eeprom and self.faults.eeprom_locked):
                continue
            stored = bytearray(self.memory.read(start, register.size))
            for place in range(max(start, address), min(at, end)):
                stored[place - start] = data[place - address]
            value = int.from_bytes(stored, "little")
            if register.highest is None or value <= register.highest:
                self._set(register, value)

    def hold_write(self, address: int, data: bytes) -> None:
        """Keep a write for the next `release_write`."""
        self._pending = (address, data)

    def release_write(self) -> None:
        """Do the write that was kept, if there is one."""
        if self._pending is not None:
            self.write(*self._pending)
        self._pending = None

    def lose_power(self) -> None:
        """Forget everything but the EEPROM; the motor is free and its heat stays."""
        self.memory.lose_power()
        self._pending = None
        self._overload.clear()
        self._over_current.clear()
        self._too_hot = False
        self._power_up()

    def rest_here(self) -> None:
        """Make the present position the goal: somebody has carried the arm here. Torque stays as it is."""
        self._rest()

    def step(self, dt: float) -> Drive:
        """Let `dt` seconds pass; returns what the motor is to do now."""
        self._protect(dt)
        if self.drive.torque is Torque.FOLLOWING:
            self._advance_set_point(dt)
        return self.drive

    def _turns_count(self) -> bool:
        return self.memory.stored(reg.MIN_ANGLE) == 0 and self.memory.stored(reg.MAX_ANGLE) == 0

    def _set(self, register: Register, stored: int) -> None:
        memory = self.memory
        if register is reg.TORQUE_ENABLE and stored == _CENTRE_COMMAND:
            self._centre()
            return
        memory.put(register, stored)
        if register.eeprom and memory[reg.LOCK] == 0:
            memory.keep(register)
        if register is reg.TORQUE_ENABLE:
            self._enable(stored)
        elif register in (reg.TORQUE_LIMIT, reg.P_GAIN, reg.MAX_TORQUE):
            self._set_strength()
        elif register is reg.GOAL_POSITION and memory[reg.MODE] == 3:
            self._step_goal = self.drive.set_point + memory[reg.GOAL_POSITION]

    def _centre(self) -> None:
        if self.faults.eeprom_locked:
            return
        offset = (round(self.shaft.position) - reg.CENTRE + reg.TICKS // 2) % reg.TICKS - reg.TICKS // 2
        self.memory.put_value(reg.HOMING_OFFSET, offset)
        self.memory.keep(reg.HOMING_OFFSET)

    def _enable(self, value: int) -> None:
        drive = self.drive
        if value == 1:
            self._overload.clear()
            self._over_current.clear()
            if drive.torque is not Torque.FOLLOWING:
                drive.set_point, self._profile_speed = self.shaft.position, 0.0
                self._step_goal = drive.set_point
            drive.torque = Torque.FOLLOWING
            self._set_strength()
        else:
            drive.torque = Torque.DAMPED if value == _DAMPING else Torque.FREE

    def _set_strength(self) -> None:
        memory = self.memory
        self.drive.stiffness = memory[reg.P_GAIN] / _P_NOMINAL
        limit = min(memory[reg.TORQUE_LIMIT], memory[reg.MAX_TORQUE]) / 1000.0
        unloading = memory[reg.UNLOADING]
        if (self._overload.tripped and unloading & reg.OVERLOAD_ERROR) or (
            self._over_current.tripped and unloading & reg.CURRENT_ERROR
        ):
            limit = min(limit, memory[reg.PROTECTIVE_TORQUE] / 100.0)
        self.drive.limit = limit

    def _power_up(self) -> None:
        self.memory.put_value(reg.TORQUE_LIMIT, self.memory[reg.MAX_TORQUE])
        self._enable(0)
        self._rest()

    def _rest(self) -> None:
        memory = self.memory
        memory.put_value(reg.GOAL_POSITION, self.present_position())
        self.drive.set_point = self._step_goal = self.shaft.position
        self._profile_speed = 0.0
        self._set_strength()

    def _advance_set_point(self, dt: float) -> None:
        memory, drive = self.memory, self.drive
        mode = memory[reg.MODE]
        fastest = memory[reg.MAX_SPEED] * 50.0
        asked = memory[reg.GOAL_SPEED] * self._speed_unit()
        if mode in (1, 2):
            speed = asked if mode == 1 else memory[reg.GOAL_TIME] / 1000.0 * _FULL_SPEED
            change = self._acceleration() * dt
            wanted = min(max(speed, -fastest), fastest)
            self._profile_speed += min(max(wanted - self._profile_speed, -change), change)
            drive.set_point += self._profile_speed * dt
            return
        goal = self._goal_on_shaft() if mode == 0 else self._step_goal
        distance = goal - drive.set_point
        if distance == 0.0 and self._profile_speed == 0.0:
            return
        limit = min(abs(asked), fastest) if asked else fastest
        acceleration = self._acceleration()
        change = acceleration * dt
        # The speed from which one can still stop at the goal, in steps of dt.
        braking = math.sqrt(change * change / 4.0 + 2.0 * acceleration * abs(distance)) - change / 2.0
        target = math.copysign(min(limit, braking, abs(distance) / dt), distance)
        self._profile_speed += min(max(target - self._profile_speed, -change), change)
        drive.set_point += self._profile_speed * dt
        if abs(goal - drive.set_point) < _NEAR_TICKS and abs(self._profile_speed) <= change:
            drive.set_point, self._profile_speed = goal, 0.0

    def _goal_on_shaft(self) -> float:
        """Return the goal in the shaft's ticks: the way there is the registers' difference, never the shorter one."""
        memory = self.memory
        goal = memory[reg.GOAL_POSITION]
        if not self._turns_count():
            goal = min(max(goal, memory[reg.MIN_ANGLE]), memory[reg.MAX_ANGLE])
        offset = memory[reg.HOMING_OFFSET]
        turn = 0 if self._turns_count() else (round(self.shaft.position) - offset) // reg.TICKS
        return float(goal + offset + turn * reg.TICKS)

    def _acceleration(self) -> float:
        asked, most = self.memory[reg.ACCELERATION], self.memory[reg.MAX_ACCELERATION]
        return 100.0 * (min(asked, most) if asked else max(most, 1))

    def _speed_unit(self) -> int:
        return 50 if self.memory[reg.PHASE] & 4 else 1

    def _protect(self, dt: float) -> None:
        self._since_housekeeping_s += dt
        self._load += (self.shaft.load - self._load) * min(dt / _LOAD_AVERAGE_S, 1.0)
        following = self.drive.torque is Torque.FOLLOWING
        if following:
            self._watch_torque(abs(self._load), dt)
        if self._since_housekeeping_s >= _HOUSEKEEPING_S:
            self._warm(self._since_housekeeping_s, abs(self._load) if following else 0.0)
            volts = self._decivolts()
            self._wrong_voltage = not self.memory[reg.MIN_VOLTAGE] <= volts <= self.memory[reg.MAX_VOLTAGE]
            self._since_housekeeping_s = 0.0

    def _watch_torque(self, load: float, dt: float) -> None:
        memory, overload, over_current = self.memory, self._overload, self._over_current
        tripped = overload.tripped, over_current.tripped
        heavy = load >= memory[reg.OVERLOAD_TORQUE] / 100.0
        overload.watch(heavy, dt, memory[reg.PROTECTION_TIME] * 0.01)
        strong = load * _STALL_AMPERES >= memory[reg.PROTECTION_CURRENT] * _AMPERES_PER_UNIT
        over_current.watch(strong, dt, memory[reg.OVER_CURRENT_TIME] * 0.01)
        overload.tripped = overload.tripped or self.faults.overload
        if (overload.tripped, over_current.tripped) != tripped:
            self._set_strength()

    def _warm(self, dt: float, load: float) -> None:
        self._own_heat_c += (_HEATING_C_PER_S * load * load - self._own_heat_c * _COOLING_PER_S) * dt
        asked = self.faults.heat_to_c
        extra = 0.0 if asked is None else asked - _AMBIENT_C - self._own_heat_c
        # What a fault has heated cools as fast as it came.
        change = _FAULT_C_PER_S * dt
        self._fault_heat_c += min(max(extra - self._fault_heat_c, -change), change)
        self._too_hot = self._celsius() > self.memory[reg.MAX_TEMPERATURE]
        if self._too_hot and self.memory[reg.UNLOADING] & reg.TEMPERATURE_ERROR:
            self.memory.put(reg.TORQUE_ENABLE, 0)
            self._enable(0)

    def _celsius(self) -> int:
        return round(_AMBIENT_C + self._own_heat_c + self._fault_heat_c)

    def _decivolts(self) -> int:
        load = abs(self._load) if self.drive.torque is Torque.FOLLOWING else 0.0
        return round(10.0 * (_VOLTS - _VOLTS_LOST_AT_STALL * load))

    def _refresh(self) -> None:
        memory, shaft = self.memory, self.shaft
        on = self.drive.torque is not Torque.FREE
        load = self._load if on else 0.0
        amperes = load * _STALL_AMPERES + (_IDLE_AMPERES if on else 0.0)
        moving = self._profile_speed != 0.0 or abs(shaft.speed) > 50.0 * memory[reg.MOVING_THRESHOLD]
        memory.put_present(
            reg.PRESENT_POSITION.encode(self.present_position()),
            reg.PRESENT_SPEED.encode(round(shaft.speed / self._speed_unit())),
            reg.PRESENT_LOAD.encode(round(1000.0 * load)),
            self._decivolts(),
            self._celsius(),
            int(self._pending is not None),
            self.error,
            int(on and moving),
            reg.PRESENT_CURRENT.encode(round(amperes / _AMPERES_PER_UNIT)),
            memory.stored(reg.GOAL_POSITION),
        )
