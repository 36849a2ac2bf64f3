"""The registers of Damiao motors that this driver looks at: a table, with the types that decode them.

Source: Damiao's manual of the DM-J43 series.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass


class Type(enum.Enum):
    """How the four bytes of a register are read."""

    FLOAT = "<f"
    UNSIGNED = "<I"


@dataclass(frozen=True)
class Register:
    """One register."""

    address: int
    name: str
    type: Type
    writable: bool

    def decode(self, raw: int) -> float:
        """Return the value of four bytes, given as one little-endian number."""
        (value,) = struct.unpack(self.type.value, raw.to_bytes(4, "little"))
        return float(value)

    def encode(self, value: float) -> int:
        """Inverse of :meth:`decode`."""
        number = round(value) if self.type is Type.UNSIGNED else value
        return int.from_bytes(struct.pack(self.type.value, number), "little")


MASTER_ID = Register(7, "MST_ID", Type.UNSIGNED, True)
MOTOR_ID = Register(8, "ESC_ID", Type.UNSIGNED, True)
TIMEOUT = Register(9, "TIMEOUT", Type.UNSIGNED, True)
CONTROL_MODE = Register(10, "CTRL_MODE", Type.UNSIGNED, True)
SOFTWARE_VERSION = Register(14, "sw_ver", Type.UNSIGNED, False)
SERIAL_NUMBER = Register(15, "SN", Type.UNSIGNED, False)
GEAR_RATIO = Register(20, "Gr", Type.FLOAT, False)
PMAX = Register(21, "PMAX", Type.FLOAT, True)
VMAX = Register(22, "VMAX", Type.FLOAT, True)
TMAX = Register(23, "TMAX", Type.FLOAT, True)

MIT_MODE = 1
"""Of :data:`CONTROL_MODE`."""

IDENTITY = (MASTER_ID, SOFTWARE_VERSION, SERIAL_NUMBER, GEAR_RATIO, PMAX, VMAX, TMAX)
"""What is read from every motor before anything is written to one."""
