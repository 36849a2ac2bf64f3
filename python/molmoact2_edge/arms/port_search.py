"""Asks serial ports for servos. What is at a port is not known, so it gets pings and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from molmoact2_edge._core import dynamixel, feetech
from molmoact2_edge.arms.arm_servos import DYNAMIXEL, FEETECH
from molmoact2_edge.arms.serial_ports import SerialPort, permission_advice
from molmoact2_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from serial import Serial

_PROBED = ((FEETECH, 1_000_000), (DYNAMIXEL, 1_000_000), (DYNAMIXEL, 57_600))
"""What arms in use talk at, and what Dynamixel servos leave the factory with (Feetech's leave it at 1 Mbaud)."""
_PROBED_IDS = range(1, 17)
_ANSWER_S = 0.03  # adapters with a latency timer keep bytes for 16 ms
_TRIES = 2
_PING = 1
_STATUS = 0x55


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
    """Ping ids 1 to 16 in each protocol; a port that cannot be opened is an answer too, never an error.

    Raises:
        MissingExtraError: pyserial is not installed.
    """
    advice = permission_advice(port)
    if advice:
        return _nothing(port, advice)
    for protocol, baud in _PROBED:
        try:
            servos = _ping_all(port, protocol, baud)
        except OSError as error:  # pyserial's own errors among them
            return _nothing(port, f"cannot be asked: {error}")
        if servos:
            ids = ", ".join(str(servo) for servo in servos)
            return PortAnswer(
                port, servos, protocol, baud, f"{protocol} servos with ids {ids} at {baud} baud"
            )
    return _nothing(port, "no servo answers")


def _ping_all(port: SerialPort, protocol: str, baud: int) -> tuple[int, ...]:
    try:
        from serial import Serial
    except ImportError as error:
        raise MissingExtraError(
            "asking ports for servos needs pyserial: pip install 'molmoact2-edge[arms]'"
        ) from error
    answers = _feetech_answers if protocol == FEETECH else _dynamixel_answers
    with Serial(port.path, baud, timeout=_ANSWER_S, write_timeout=1.0, exclusive=True) as line:
        return tuple(servo for servo in _PROBED_IDS if any(answers(line, servo) for _ in range(_TRIES)))


def _feetech_answers(line: Serial, servo: int) -> bool:
    ping = feetech.ping_packet(servo)
    parser = feetech.StatusParser(0, ping)
    return any(status[0] == servo for heard in _exchange(line, ping) for status in parser.feed(heard))


def _dynamixel_answers(line: Serial, servo: int) -> bool:
    ping = dynamixel.encode(servo, _PING, b"")
    parser = dynamixel.PacketParser()
    return any(
        number == servo and instruction == _STATUS
        for heard in _exchange(line, ping)
        for number, instruction, _ in parser.feed(heard)
    )


def _exchange(line: Serial, ping: bytes) -> list[bytes]:
    """What is heard until the line has been quiet for the time of an answer."""
    line.reset_input_buffer()
    line.write(ping)
    heard = []
    give_up = time.monotonic() + 3 * _ANSWER_S  # a device that talks by itself never is quiet
    while time.monotonic() < give_up:
        data = line.read(max(1, line.in_waiting))
        if not data:
            break
        heard.append(data)
    return heard


def _nothing(port: SerialPort, text: str) -> PortAnswer:
    return PortAnswer(port, (), None, None, text)
