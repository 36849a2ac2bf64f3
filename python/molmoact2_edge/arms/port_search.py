"""Asks serial ports for servos: pings, and reads of what has answered one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from molmoact2_edge.arms.arm_servos import DYNAMIXEL, FEETECH
from molmoact2_edge.arms.serial_ports import SerialPort, permission_advice
from molmoact2_edge.arms.servo_bus import make_bus
from molmoact2_edge.errors import MissingExtraError, RobotError

_PROBED = ((FEETECH, 1_000_000), (DYNAMIXEL, 1_000_000), (DYNAMIXEL, 57_600))
"""What arms in use talk at, and what Dynamixel servos leave the factory with (Feetech's leave it at 1 Mbaud)."""
_PROBED_IDS = range(1, 17)


@dataclass(frozen=True)
class PortAnswer:
    """What a port answered."""

    port: SerialPort
    servos: tuple[int, ...]
    """Ids that answered."""
    protocol: str | None
    baud: int | None
    text: str
    """For people."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "port": self.port.path,
            "device": self.port.device,
            "protocol": self.protocol,
            "baud": self.baud,
            "servos": list(self.servos),
            "text": self.text,
        }


def probe(port: SerialPort) -> PortAnswer:
    """Ping ids 1 to 16 in each protocol; a port that cannot be opened is an answer too, never an error."""
    advice = permission_advice(port)
    if advice:
        return _nothing(port, advice)
    left_out = ""
    for protocol, baud in _PROBED:
        try:
            servos = _ping_all(port, protocol, baud)
        except RobotError as error:
            return _nothing(port, str(error))
        except MissingExtraError:
            left_out = f" (not asked for {protocol} servos: pip install 'molmoact2-edge[arms]')"
            continue
        if servos:
            ids = ", ".join(str(servo) for servo in servos)
            return PortAnswer(
                port, servos, protocol, baud, f"{protocol} servos with ids {ids} at {baud} baud"
            )
    return _nothing(port, f"no servo answers{left_out}")


def _ping_all(port: SerialPort, protocol: str, baud: int) -> tuple[int, ...]:
    bus = make_bus(protocol, port.path, baud)
    bus.open()
    try:
        return tuple(found.servo for found in bus.scan(_PROBED_IDS))
    finally:
        bus.close()


def _nothing(port: SerialPort, text: str) -> PortAnswer:
    return PortAnswer(port, (), None, None, text)
