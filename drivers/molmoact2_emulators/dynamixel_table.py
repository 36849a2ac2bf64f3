"""The control table of Dynamixel's X series: what each address holds, who may write it, and within which bounds.

Addresses and meanings are those of the vendor's manual of each model. Addresses below 64 survive a loss of power.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EEPROM_END = 64
TABLE_BYTES = 256

BAUDS = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 4_500_000)
"""What the numbers of address 8 stand for."""
SHIPPED_BAUD = 57_600
SHIPPED_ID = 1

POSITION_LIMIT = 4095
EXTENDED_LIMIT = 1_048_575
_HOMING_LIMIT = 1_044_479
SINGLE_TURN_HOMING_LIMIT = 1024
"""A homing offset beyond it is ignored in the mode that stays within a turn."""

# Modes of address 11.
CURRENT_MODE = 0
VELOCITY_MODE = 1
POSITION_MODE = 3
EXTENDED_POSITION_MODE = 4
CURRENT_POSITION_MODE = 5
PWM_MODE = 16

# Bits of the hardware error, address 70, and of the mask of those that switch the motor off, address 63.
VOLTAGE_ERROR = 0x01
OVERHEATING = 0x04
OVERLOAD = 0x20
_SHUTDOWN_DEFAULT = 0x34


@dataclass(frozen=True)
class Register:
    """One value in the table; low byte first."""

    name: str
    address: int
    size: int
    default: int = 0
    low: int = 0
    high: int = 0
    writable: bool = True

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size

    @property
    def signed(self) -> bool:
        """Whether it is written in two's complement."""
        return self.low < 0

    def decode(self, data: bytes) -> int:
        """Its number in its bytes."""
        return int.from_bytes(data, "little", signed=self.signed)

    def encode(self, value: int) -> bytes:
        """Its bytes; what does not fit wraps around."""
        return (value & (1 << 8 * self.size) - 1).to_bytes(self.size, "little")


@dataclass(frozen=True)
class Model:
    """What differs between models."""

    name: str
    number: int
    firmware: int
    measures_current: bool
    """Address 126 is a current in counts of ``amperes``; else a load in tenths of a percent."""
    amperes: float
    current_limit: int
    velocity_limit: int
    temperature_limit: int
    voltage: int
    """Tenths of a volt that it runs at."""
    voltage_limits: tuple[int, int]
    speed_max: float
    """Turns a second without load."""
    indirect_data: int = 224
    indirect_count: int = 28
    fast_reads: bool = True

    def registers(self) -> tuple[Register, ...]:
        """The whole table, by address."""
        velocity = self.velocity_limit
        registers = [
            Register("Model Number", 0, 2, self.number, writable=False),
            Register("Model Information", 2, 4, writable=False),
            Register("Firmware Version", 6, 1, self.firmware, writable=False),
            Register("ID", 7, 1, SHIPPED_ID, 0, 252),
            Register("Baud Rate", 8, 1, BAUDS.index(SHIPPED_BAUD), 0, len(BAUDS) - 1),
            Register("Return Delay Time", 9, 1, 250, 0, 254),
            Register("Drive Mode", 10, 1, 0, 0, 13),
            Register("Operating Mode", 11, 1, POSITION_MODE, 0, 16),
            Register("Secondary(Shadow) ID", 12, 1, 255, 0, 255),
            Register("Protocol Type", 13, 1, 2, 2, 2),
            Register("Homing Offset", 20, 4, 0, -_HOMING_LIMIT, _HOMING_LIMIT),
            Register("Moving Threshold", 24, 4, 10, 0, 1023),
            Register("Temperature Limit", 31, 1, self.temperature_limit, 0, 100),
            Register("Max Voltage Limit", 32, 2, self.voltage_limits[1], *self.voltage_limits),
            Register("Min Voltage Limit", 34, 2, self.voltage_limits[0], *self.voltage_limits),
            Register("PWM Limit", 36, 2, 885, 0, 885),
            Register("Velocity Limit", 44, 4, velocity, 0, 1023),
            Register("Max Position Limit", 48, 4, POSITION_LIMIT, 0, POSITION_LIMIT),
            Register("Min Position Limit", 52, 4, 0, 0, POSITION_LIMIT),
            Register("Startup Configuration", 60, 1, 0, 0, 3),
            Register("Shutdown", 63, 1, _SHUTDOWN_DEFAULT, 0, 63),
            Register("Torque Enable", 64, 1, 0, 0, 1),
            Register("LED", 65, 1, 0, 0, 1),
            Register("Status Return Level", 68, 1, 2, 0, 2),
            Register("Registered Instruction", 69, 1, writable=False),
            Register("Hardware Error Status", 70, 1, writable=False),
            Register("Velocity I Gain", 76, 2, 1000, 0, 16383),
            Register("Velocity P Gain", 78, 2, 100, 0, 16383),
            Register("Position D Gain", 80, 2, 0, 0, 16383),
            Register("Position I Gain", 82, 2, 0, 0, 16383),
            Register("Position P Gain", 84, 2, 800, 0, 16383),
            Register("Feedforward 2nd Gain", 88, 2, 0, 0, 16383),
            Register("Feedforward 1st Gain", 90, 2, 0, 0, 16383),
            Register("Bus Watchdog", 98, 1, 0, -1, 127),
            Register("Goal PWM", 100, 2, 885, -885, 885),
            Register("Goal Velocity", 104, 4, velocity, -1023, 1023),
            Register("Profile Acceleration", 108, 4, 0, 0, 32767),
            Register("Profile Velocity", 112, 4, 0, 0, 32767),
            Register("Goal Position", 116, 4, 0, -EXTENDED_LIMIT, EXTENDED_LIMIT),
            Register("Realtime Tick", 120, 2, writable=False),
            Register("Moving", 122, 1, writable=False),
            Register("Moving Status", 123, 1, writable=False),
            Register("Present PWM", 124, 2, low=-885, writable=False),
            Register(
                "Present Current" if self.measures_current else "Present Load", 126, 2, low=-1, writable=False
            ),
            Register("Present Velocity", 128, 4, low=-1, writable=False),
            Register("Present Position", 132, 4, low=-1, writable=False),
            Register("Velocity Trajectory", 136, 4, low=-1, writable=False),
            Register("Position Trajectory", 140, 4, low=-1, writable=False),
            Register("Present Input Voltage", 144, 2, self.voltage, writable=False),
            Register("Present Temperature", 146, 1, 30, writable=False),
            Register("Backup Ready", 147, 1, writable=False),
        ]
        if self.measures_current:
            limit = self.current_limit
            registers += [
                Register("Current Limit", 38, 2, limit, 0, limit),
                Register("Goal Current", 102, 2, limit, -limit, limit),
            ]
        for index in range(self.indirect_count):
            data = self.indirect_data + index
            registers.append(
                Register(f"Indirect Address {index + 1}", 168 + 2 * index, 2, data, 64, TABLE_BYTES - 1)
            )
            registers.append(Register(f"Indirect Data {index + 1}", data, 1, 0, 0, 255))
        return tuple(sorted(registers, key=lambda register: register.address))


_XL330 = Model("xl330-m288", 1200, 46, True, 0.001, 1750, 445, 70, 50, (35, 70), 1.72)

MODELS = {
    model.name: model
    for model in (
        Model("xl430-w250", 1060, 48, False, 0.0, 0, 265, 72, 111, (60, 140), 1.02),
        Model("xc430-w150", 1070, 48, False, 0.0, 0, 460, 72, 111, (60, 140), 1.77),
        Model("xm430-w350", 1020, 48, True, 0.00269, 1193, 200, 80, 120, (95, 160), 0.77),
        Model("xm540-w270", 1120, 48, True, 0.00269, 2047, 128, 80, 120, (95, 160), 0.5),
        _XL330,
        replace(_XL330, name="xl330-m077", number=1190, velocity_limit=1620, speed_max=6.3),
        # Since firmware 52 the data of the indirect addresses lie elsewhere, and there are fewer.
        replace(_XL330, name="xl330-m288-fw52", firmware=52, indirect_data=208, indirect_count=20),
        # Before fast reads were invented.
        replace(_XL330, name="xl330-m288-fw44", firmware=44, fast_reads=False),
    )
}
