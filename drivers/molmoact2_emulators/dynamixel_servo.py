"""One emulated Dynamixel X servo: its control table with the rules of who may write what, its motor, its faults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from molmoact2_emulators import dynamixel_packet as wire
from molmoact2_emulators.dynamixel_table import (
    BAUDS,
    CURRENT_POSITION_MODE,
    EEPROM_END,
    EXTENDED_POSITION_MODE,
    OVERHEATING,
    OVERLOAD,
    POSITION_MODE,
    PWM_MODE,
    SINGLE_TURN_HOMING_LIMIT,
    TABLE_BYTES,
    VELOCITY_MODE,
    Model,
    Register,
)

TICKS_PER_TURN = 4096
_VELOCITY_UNIT = 0.229 / 60.0 * TICKS_PER_TURN  # ticks a second
_ACCELERATION_UNIT = 214.577 / 3600.0 * TICKS_PER_TURN  # ticks a second squared
_WATCHDOG_UNIT_S = 0.020
_BOOT_S = 0.25
_STEP_S = 0.002
_STEPS_MAX = 500  # after a long silence; by then the motor stands
_LAG_S = 0.03  # of a motor behind its goal, where speed and acceleration do not limit it
_ACCELERATION_TURNS = 40.0  # a second squared, the most that a motor does without load
_HAND_SPEED = TICKS_PER_TURN / 2  # ticks a second, of somebody who turns the shaft
_STIFFNESS = 3.0  # counts of current or load for each tick between goal and position

_GOALS = ("Goal PWM", "Goal Current", "Goal Velocity", "Goal Position")


@dataclass
class Ailments:
    """What a fault script does to a servo now."""

    overload: bool = False
    celsius: float | None = None
    locked: bool = False
    """Addresses below 64 take nothing."""
    hand: float | None = None
    """Where somebody turns the shaft to while torque is off, in its ticks; may be beyond a turn."""


class Servo:
    """Everything about one servo except its place on the wire. Times are seconds on any steady clock."""

    def __init__(self, model: Model, servo_id: int, position: int, now_s: float) -> None:
        self.model = model
        self.number = servo_id
        """By which fault scripts know it, whatever id it is given later."""
        self.ailments = Ailments()
        self._registers = model.registers()
        self._by_name = {register.name: register for register in self._registers}
        self._owner: list[Register | None] = [None] * TABLE_BYTES
        for register in self._registers:
            for address in range(register.address, register.end):
                self._owner[address] = register
        self._memory = bytearray(TABLE_BYTES)
        for register in self._registers:
            self._put(register, register.default)
        self["ID"] = servo_id
        self["Return Delay Time"] = 250
        # The motor's shaft in ticks, without homing offset and direction.
        self._shaft = float(position)
        self._velocity = 0.0
        self._halted = False  # by the watchdog: no motion although torque is on
        self._now_s = now_s
        self._heard_s = now_s
        self._silent_until_s = now_s
        self._registered: tuple[int, bytes] | None = None
        self._wake()

    def __getitem__(self, name: str) -> int:
        register = self._by_name[name]
        return register.decode(bytes(self._memory[register.address : register.end]))

    def __setitem__(self, name: str, value: int) -> None:
        self._put(self._by_name[name], value)

    def _put(self, register: Register, value: int) -> None:
        self._memory[register.address : register.end] = register.encode(value)

    # --- life ---

    def answers(self, now_s: float) -> bool:
        """Whether it listens at all: not while it boots."""
        return now_s >= self._silent_until_s

    @property
    def baud(self) -> int:
        """The rate at which it hears and speaks."""
        return BAUDS[self["Baud Rate"]]

    @property
    def alert(self) -> int:
        """The alert bit that goes into every status."""
        return wire.ALERT if self["Hardware Error Status"] else 0

    @property
    def return_delay_s(self) -> float:
        """How long it waits before it answers."""
        return self["Return Delay Time"] * 2e-6

    def _wake(self) -> None:
        for register in self._registers:
            if register.address >= EEPROM_END:
                self._put(register, register.default)
        self["Goal Velocity"] = self["Velocity Limit"]
        # Without power nobody counts turns.
        self._shaft %= TICKS_PER_TURN
        self._velocity = 0.0
        self._halted = False
        self._registered = None
        self._measure()
        self["Goal Position"] = self["Present Position"]

    def reboot(self, now_s: float) -> None:
        """Begin anew with what lies below address 64; silent meanwhile."""
        self._wake()
        self._silent_until_s = now_s + _BOOT_S
        self._now_s = self._heard_s = self._silent_until_s

    def factory_reset(self, option: int, now_s: float) -> int:
        """0xFF resets all, 1 keeps the id, 2 keeps id and baud rate; returns an error number."""
        if option not in (0xFF, 0x01, 0x02):
            return wire.DATA_RANGE
        kept = {"ID": self["ID"]} if option != 0xFF else {}
        if option == 0x02:
            kept["Baud Rate"] = self["Baud Rate"]
        for register in self._registers:
            if register.address < EEPROM_END:
                self._put(register, register.default)
        for name, value in kept.items():
            self[name] = value
        self.reboot(now_s)
        return 0

    def clear_turns(self) -> int:
        """Count turns from now on from 0; refused while it moves."""
        if self["Torque Enable"] and self["Moving"]:
            return wire.RESULT_FAIL
        self._shaft %= TICKS_PER_TURN
        self._measure()
        self["Goal Position"] = self["Present Position"]
        return 0

    # --- table ---

    def read(self, address: int, size: int) -> tuple[int, bytes]:
        """Return an error number, and the bytes."""
        if size == 0:
            return wire.DATA_LENGTH, b""
        if address + size > TABLE_BYTES:
            return wire.ACCESS, b""
        return 0, bytes(self._memory[self._source(at)] for at in range(address, address + size))

    def _source(self, address: int) -> int:
        index = address - self.model.indirect_data
        if not 0 <= index < self.model.indirect_count:
            return address
        return self[f"Indirect Address {index + 1}"]

    def write(self, address: int, data: bytes) -> int:
        """Write, or refuse all of it; returns an error number."""
        if not data:
            return wire.DATA_LENGTH
        if address + len(data) > TABLE_BYTES:
            return wire.ACCESS
        if any(self._source(at) != at for at in range(address, address + len(data))):
            return self._write_indirect(address, data)
        writes, error = self._split(address, data)
        for register, value in writes:
            error = error or self._refusal(register, value)
        if error == 0:
            for register, value in writes:
                self._put(register, value)
                self._act(register, value)
        return error

    def _write_indirect(self, address: int, data: bytes) -> int:
        # Bytes that follow each other in the block and in the table belong to one value.
        start = 0
        for at in range(1, len(data) + 1):
            if at == len(data) or self._source(address + at) != self._source(address + at - 1) + 1:
                error = self.write(self._source(address + start), data[start:at])
                if error:
                    return error
                start = at
        return 0

    def _split(self, address: int, data: bytes) -> tuple[list[tuple[Register, int]], int]:
        writes: list[tuple[Register, int]] = []
        at = address
        while at < address + len(data):
            register = self._owner[at]
            if register is None or not register.writable:
                return [], wire.ACCESS
            if at != register.address or register.end > address + len(data):
                return [], wire.DATA_LENGTH
            writes.append((register, register.decode(data[at - address : register.end - address])))
            at = register.end
        return writes, 0

    def _refusal(self, register: Register, value: int) -> int:
        if register.address < EEPROM_END and (self["Torque Enable"] or self.ailments.locked):
            return wire.ACCESS
        if not register.low <= value <= register.high:
            return wire.DATA_RANGE
        if register.name == "Operating Mode" and value not in self._modes():
            return wire.DATA_RANGE
        if register.name == "Bus Watchdog" and value < 0:
            return wire.DATA_RANGE
        if register.name in _GOALS and self["Bus Watchdog"] == -1:
            return wire.DATA_RANGE
        limits = {
            "Goal PWM": self["PWM Limit"],
            "Goal Velocity": self["Velocity Limit"],
            "Goal Current": self["Current Limit"] if self.model.measures_current else 0,
        }
        if register.name in limits and abs(value) > limits[register.name]:
            return wire.DATA_LIMIT
        if register.name == "Goal Position" and self["Operating Mode"] == POSITION_MODE:
            inside = self["Min Position Limit"] <= value <= self["Max Position Limit"]
            return 0 if inside else wire.DATA_LIMIT
        return 0

    def _modes(self) -> tuple[int, ...]:
        modes = (VELOCITY_MODE, POSITION_MODE, EXTENDED_POSITION_MODE, PWM_MODE)
        return (*modes, 0, CURRENT_POSITION_MODE) if self.model.measures_current else modes

    def _act(self, register: Register, value: int) -> None:
        if register.name == "Torque Enable":
            # A motor that has let go because of an error stays so until it is rebooted.
            if value and self["Hardware Error Status"] & self["Shutdown"]:
                self["Torque Enable"] = 0
            elif value:
                self._heard_s = self._now_s
        elif register.name == "Bus Watchdog":
            self._halted = False
            self._heard_s = self._now_s
        elif register.name in ("Homing Offset", "Drive Mode", "Operating Mode"):
            self._measure()
            self["Goal Position"] = self["Present Position"]

    def register_write(self, address: int, data: bytes) -> int:
        """Keep a write for :meth:`action`; returns an error number."""
        writes, error = self._split(address, data)
        for register, value in writes:
            error = error or self._refusal(register, value)
        if error == 0:
            self._registered = (address, data)
            self["Registered Instruction"] = 1
        return error

    def action(self) -> None:
        """Carry out the write that is kept, if there is one."""
        if self._registered is not None:
            address, data = self._registered
            self._registered = None
            self["Registered Instruction"] = 0
            self.write(address, data)

    # --- time ---

    def hear(self, now_s: float) -> None:
        """An instruction packet was on the wire: the watchdog begins to count anew."""
        self._heard_s = now_s

    def advance(self, now_s: float) -> None:
        """Let time pass: the motor moves, the watchdog bites, errors show."""
        self._judge()
        seconds = now_s - self._now_s
        if seconds <= 0.0:
            return
        limit_s = self["Bus Watchdog"] * _WATCHDOG_UNIT_S
        bites = limit_s > 0.0 and self["Torque Enable"] and now_s - self._heard_s > limit_s
        before_s = max(0.0, min(seconds, self._heard_s + limit_s - self._now_s)) if bites else seconds
        self._move(before_s)
        if bites:
            self["Bus Watchdog"] = -1
            self._halted = True
        self._move(seconds - before_s)
        self._now_s = now_s
        self._measure()

    def _judge(self) -> None:
        celsius = 30.0 if self.ailments.celsius is None else self.ailments.celsius
        self["Present Temperature"] = round(celsius)
        errors = self["Hardware Error Status"]
        if celsius > self["Temperature Limit"]:
            errors |= OVERHEATING
        if self.ailments.overload:
            errors |= OVERLOAD
        self["Hardware Error Status"] = errors
        if errors & self["Shutdown"]:
            self["Torque Enable"] = 0

    def _move(self, seconds: float) -> None:
        if not self["Torque Enable"]:
            self._velocity = 0.0
            self._turn_by_hand(seconds)
            return
        if self._halted:
            self._velocity = 0.0
            return
        mode = self["Operating Mode"]
        if mode not in (POSITION_MODE, EXTENDED_POSITION_MODE, CURRENT_POSITION_MODE):
            self._velocity = self._free_velocity(mode)
            self._shaft += self._velocity * seconds
            return
        fastest = self.model.speed_max * TICKS_PER_TURN
        accelerating = _ACCELERATION_TURNS * TICKS_PER_TURN
        if self["Profile Velocity"]:
            fastest = min(fastest, self["Profile Velocity"] * _VELOCITY_UNIT)
        if self["Profile Acceleration"]:
            accelerating = min(accelerating, self["Profile Acceleration"] * _ACCELERATION_UNIT)
        goal = self._to_shaft(self["Goal Position"])
        steps = min(math.ceil(seconds / _STEP_S), _STEPS_MAX)
        for _ in range(steps):
            left = goal - self._shaft
            # Fast enough to arrive, slow enough to stop there.
            speed = min(abs(left) / _LAG_S, math.sqrt(2.0 * accelerating * abs(left)), fastest)
            change = math.copysign(speed, left) - self._velocity
            most = accelerating * seconds / steps
            self._velocity += max(-most, min(most, change))
            self._shaft += self._velocity * seconds / steps

    def turn(self, ticks: float) -> None:
        """Turn the shaft without the motor, at once."""
        self._shaft += ticks
        self._measure()
        self["Goal Position"] = self["Present Position"]

    def _turn_by_hand(self, seconds: float) -> None:
        if self.ailments.hand is not None:
            left = self.ailments.hand - self._shaft
            self._shaft += math.copysign(min(abs(left), _HAND_SPEED * seconds), left)

    def _free_velocity(self, mode: int) -> float:
        fastest = self.model.speed_max * TICKS_PER_TURN
        if mode == VELOCITY_MODE:
            return self._direction() * max(-fastest, min(fastest, self["Goal Velocity"] * _VELOCITY_UNIT))
        if mode == PWM_MODE:
            return self._direction() * self["Goal PWM"] / 885.0 * fastest
        return self._direction() * self["Goal Current"] / max(1, self["Current Limit"]) * fastest

    # --- measuring ---

    def _direction(self) -> int:
        return -1 if self["Drive Mode"] & 1 else 1

    def _to_shaft(self, position: int) -> float:
        return float(self._direction() * (position - self._offset()))

    def _offset(self) -> int:
        offset = self["Homing Offset"]
        single_turn = self["Operating Mode"] == POSITION_MODE
        return 0 if single_turn and abs(offset) > SINGLE_TURN_HOMING_LIMIT else offset

    def _measure(self) -> None:
        direction = self._direction()
        position = round(direction * self._shaft) + self._offset()
        self["Present Position"] = position
        self["Position Trajectory"] = self["Goal Position"]
        self["Present Velocity"] = round(direction * self._velocity / _VELOCITY_UNIT)
        self["Moving"] = int(abs(self._velocity) > self["Moving Threshold"] * _VELOCITY_UNIT)
        self["Realtime Tick"] = int(self._now_s * 1000.0) % 32768
        effort = 0
        if self["Torque Enable"]:
            highest = self.model.current_limit or 1000
            effort = round(max(-highest, min(highest, _STIFFNESS * (self["Goal Position"] - position))))
        self["Present Current" if self.model.measures_current else "Present Load"] = effort
        self["Present PWM"] = max(-885, min(885, effort))
