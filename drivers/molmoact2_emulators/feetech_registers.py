"""The STS3215's memory as a table: what lies where, who may write it, what survives the loss of power.

Words are little endian. Signed quantities are sign and magnitude, never two's complement.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MODEL_NUMBER = 777
MEMORY_SIZE = 96
TICKS = 4096
"""Positions of one turn."""
CENTRE = 2048
"""Where torque enable 128 puts the present position."""
BAUDS = {0: 1_000_000, 1: 500_000, 2: 250_000, 3: 128_000, 4: 115_200, 5: 57_600, 6: 38_400, 7: 19_200}
"""Baud register to bits per second, as LeRobot has it; sources disagree about 5 to 7."""

# Bits of the error byte in answers, and of the status register.
VOLTAGE_ERROR = 1
ANGLE_ERROR = 2
TEMPERATURE_ERROR = 4
CURRENT_ERROR = 8
OVERLOAD_ERROR = 32


@dataclass(frozen=True, eq=False)
class Register:
    """One quantity in the servo's memory."""

    name: str
    address: int
    size: int = 1
    """Bytes: 1 or 2."""
    factory: int = 0
    """As the servo leaves the factory, as stored."""
    highest: int | None = None
    """Larger values are not taken; None: whatever fits."""
    sign_bit: int | None = None
    """Sign and magnitude with the sign in this bit; None: unsigned."""
    writable: bool = True

    @property
    def eeprom(self) -> bool:
        """Whether it is in the part of the memory that the lock is about."""
        return self.address < 40

    def decode(self, stored: int) -> int:
        """Return the number that the stored bits mean."""
        if self.sign_bit is None or not stored >> self.sign_bit & 1:
            return stored if self.sign_bit is None else stored & ((1 << self.sign_bit) - 1)
        return -(stored & ((1 << self.sign_bit) - 1))

    def encode(self, value: int) -> int:
        """Return the bits of a number, brought to the largest magnitude that they can hold."""
        if self.sign_bit is None:
            return min(max(value, 0), (1 << 8 * self.size) - 1)
        magnitude = min(abs(value), (1 << self.sign_bit) - 1)
        return magnitude | (1 << self.sign_bit if value < 0 else 0)


def _read_only(
    name: str, address: int, size: int = 1, factory: int = 0, sign_bit: int | None = None
) -> Register:
    return Register(name, address, size, factory, sign_bit=sign_bit, writable=False)


FIRMWARE_MAJOR = _read_only("firmware_major", 0, factory=3)
FIRMWARE_MINOR = _read_only("firmware_minor", 1, factory=10)
ID = Register("id", 5, factory=1, highest=253)
BAUD = Register("baud", 6, factory=0, highest=max(BAUDS))
RETURN_DELAY = Register("return_delay", 7, factory=250)  # of 2 us
RESPONSE_LEVEL = Register("response_level", 8, factory=1, highest=1)
MIN_ANGLE = Register("min_angle", 9, 2, factory=0)
MAX_ANGLE = Register("max_angle", 11, 2, factory=4095)
MAX_TEMPERATURE = Register("max_temperature", 13, factory=70, highest=100)
MAX_VOLTAGE = Register("max_voltage", 14, factory=80)
MIN_VOLTAGE = Register("min_voltage", 15, factory=40)
MAX_TORQUE = Register("max_torque", 16, 2, factory=1000, highest=1000)
PHASE = Register("phase", 18, factory=8)
UNLOADING = Register("unloading", 19, factory=TEMPERATURE_ERROR | CURRENT_ERROR | OVERLOAD_ERROR)
P_GAIN = Register("p_gain", 21, factory=32)
PROTECTION_CURRENT = Register("protection_current", 28, 2, factory=500, highest=511)
HOMING_OFFSET = Register("homing_offset", 31, 2, sign_bit=11)
MODE = Register("mode", 33, highest=3)
PROTECTIVE_TORQUE = Register("protective_torque", 34, factory=20, highest=100)
PROTECTION_TIME = Register("protection_time", 35, factory=200)  # of 10 ms
OVERLOAD_TORQUE = Register("overload_torque", 36, factory=80, highest=100)
OVER_CURRENT_TIME = Register("over_current_time", 38, factory=200)  # of 10 ms
TORQUE_ENABLE = Register("torque_enable", 40, highest=128)
ACCELERATION = Register("acceleration", 41, highest=254)  # of 100 ticks/s^2; 0: no limit
GOAL_POSITION = Register("goal_position", 42, 2, sign_bit=15)
GOAL_TIME = Register("goal_time", 44, 2, sign_bit=10)  # in mode 2: share of full voltage, per mille
GOAL_SPEED = Register("goal_speed", 46, 2, sign_bit=15)  # 0: no limit
TORQUE_LIMIT = Register("torque_limit", 48, 2, factory=1000, highest=1000)
LOCK = Register("lock", 55, factory=1, highest=1)
PRESENT_POSITION = _read_only("present_position", 56, 2, sign_bit=15)
PRESENT_SPEED = _read_only("present_speed", 58, 2, sign_bit=15)
PRESENT_LOAD = _read_only("present_load", 60, 2, sign_bit=10)
PRESENT_VOLTAGE = _read_only("present_voltage", 62)
PRESENT_TEMPERATURE = _read_only("present_temperature", 63)
WRITE_PENDING = _read_only("write_pending", 64)
STATUS = _read_only("status", 65)
MOVING = _read_only("moving", 66)
PRESENT_CURRENT = _read_only("present_current", 69, 2, sign_bit=15)
GOAL_IN_USE = _read_only("goal_in_use", 71, 2, sign_bit=15)
MOVING_THRESHOLD = Register("moving_threshold", 80, factory=1)  # of 50 ticks/s
MAX_SPEED = Register("max_speed", 84, factory=68)  # of 50 ticks/s
MAX_ACCELERATION = Register("max_acceleration", 85, factory=254)  # of 100 ticks/s^2

STS3215: tuple[Register, ...] = (
    FIRMWARE_MAJOR,
    FIRMWARE_MINOR,
    _read_only("byte_order", 2),
    _read_only("model", 3, 2, factory=MODEL_NUMBER),
    ID,
    BAUD,
    RETURN_DELAY,
    RESPONSE_LEVEL,
    MIN_ANGLE,
    MAX_ANGLE,
    MAX_TEMPERATURE,
    MAX_VOLTAGE,
    MIN_VOLTAGE,
    MAX_TORQUE,
    PHASE,
    UNLOADING,
    Register("led_alarm", 20, factory=47),
    P_GAIN,
    Register("d_gain", 22, factory=32),
    Register("i_gain", 23),
    Register("minimum_start_force", 24, 2, factory=16, highest=1000),
    Register("clockwise_dead_zone", 26, factory=1, highest=32),
    Register("counterclockwise_dead_zone", 27, factory=1, highest=32),
    PROTECTION_CURRENT,
    Register("angular_resolution", 30, factory=1, highest=100),
    HOMING_OFFSET,
    MODE,
    PROTECTIVE_TORQUE,
    PROTECTION_TIME,
    OVERLOAD_TORQUE,
    Register("speed_p_gain", 37, factory=10),
    OVER_CURRENT_TIME,
    Register("speed_i_gain", 39, factory=10),
    TORQUE_ENABLE,
    ACCELERATION,
    GOAL_POSITION,
    GOAL_TIME,
    GOAL_SPEED,
    TORQUE_LIMIT,
    LOCK,
    PRESENT_POSITION,
    PRESENT_SPEED,
    PRESENT_LOAD,
    PRESENT_VOLTAGE,
    PRESENT_TEMPERATURE,
    WRITE_PENDING,
    STATUS,
    MOVING,
    PRESENT_CURRENT,
    GOAL_IN_USE,
    MOVING_THRESHOLD,
    Register("dts", 81, factory=0),
    Register("speed_unit", 82, factory=1),
    Register("hts", 83),
    MAX_SPEED,
    MAX_ACCELERATION,
    Register("acceleration_multiplier", 86, factory=1),
)
"""Every register, by address."""

AT: dict[int, Register] = {
    address: register
    for register in STS3215
    for address in range(register.address, register.address + register.size)
}
"""Which register an address belongs to."""

_PRESENT = struct.Struct("<HHHBBBBBxxHH")


class Memory:
    """One servo's memory: what is there now, and what its EEPROM keeps without power."""

    def __init__(self) -> None:
        self._now = bytearray(MEMORY_SIZE)
        for register in STS3215:
            self.put(register, register.factory)
        self._kept = bytes(self._now)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes; zeros where nothing is."""
        return bytes(self._now[address : address + length]).ljust(length, b"\0")

    def stored(self, register: Register) -> int:
        """Return a register's bits."""
        start = register.address
        return self._now[start] if register.size == 1 else self._now[start] | self._now[start + 1] << 8

    def __getitem__(self, register: Register) -> int:
        """Return the number that a register means."""
        stored = self.stored(register)
        return stored if register.sign_bit is None else register.decode(stored)

    def put(self, register: Register, stored: int) -> None:
        """Set a register's bits, as the servo's own program does: no rule holds it back."""
        self._now[register.address : register.address + register.size] = stored.to_bytes(
            register.size, "little"
        )

    def put_present(self, *values: int) -> None:
        """Set the registers from the present position to the goal in use, as their maker packs them."""
        _PRESENT.pack_into(self._now, PRESENT_POSITION.address, *values)

    def put_value(self, register: Register, value: int) -> None:
        """Set a register to a number."""
        self.put(register, register.encode(value))

    def keep(self, *registers: Register) -> None:
        """Let registers survive the loss of power as they are now."""
        kept = bytearray(self._kept)
        for register in registers:
            end = register.address + register.size
            kept[register.address : end] = self._now[register.address : end]
        self._kept = bytes(kept)

    def lose_power(self) -> None:
        """Go back to what was kept."""
        self._now[:] = self._kept
