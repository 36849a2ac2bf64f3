"""An emulated arm on a CAN interface of the kernel: a virtual one, vcan, unless there is a second adapter at hand."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time

from molmoact2_edge.errors import InputError
from molmoact2_emulators.damiao_arm import DamiaoArm
from molmoact2_emulators.damiao_codec import CanFrame

_FRAME = struct.Struct("=IB3x8s")
_EXTENDED, _REMOTE, _ERROR = 0x80000000, 0x40000000, 0x20000000
_IDLE_S = 0.01


class SocketCanBus:
    """The motors' end of an interface. One thread serves."""

    def __init__(self, interface: str, arm: DamiaoArm) -> None:
        """Raises InputError where there is no such CAN interface."""
        self._arm = arm
        try:
            self._socket = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
            self._socket.bind((interface,))
        except (AttributeError, OSError) as error:
            raise InputError(f"no CAN interface {interface!r} here: {error}") from error
        self._socket.setblocking(False)

    def serve(self, ended: threading.Event) -> None:
        """Answer until the event is set."""
        while not ended.is_set():
            arrival_ns = self._arm.next_arrival_ns()
            patience_s = _IDLE_S
            if arrival_ns is not None:
                patience_s = min(_IDLE_S, max(0.0, (arrival_ns - time.monotonic_ns()) * 1e-9))
            select.select([self._socket], [], [], patience_s)
            now_ns = time.monotonic_ns()
            self._arm.advance(now_ns)
            self._arm.send(self._received(), now_ns)
            for _, frame in self._arm.arrived(time.monotonic_ns()):
                self._send(frame)

    def close(self) -> None:
        """Leave the bus."""
        self._socket.close()

    def _received(self) -> list[CanFrame]:
        frames: list[CanFrame] = []
        while True:
            try:
                raw = self._socket.recv(_FRAME.size)
            except OSError:
                return frames
            number, length, data = _FRAME.unpack(raw)
            if not number & _ERROR:
                extended = bool(number & _EXTENDED)
                mask = 0x1FFFFFFF if extended else 0x7FF
                frames.append(CanFrame(number & mask, data[:length], extended, bool(number & _REMOTE)))

    def _send(self, frame: CanFrame) -> None:
        number = frame.id | (_EXTENDED if frame.extended else 0)
        try:
            self._socket.send(_FRAME.pack(number, len(frame.data), frame.data.ljust(8, b"\0")))
        except OSError:
            return  # the interface is down or its queue full: on a wire the frame is lost as well
