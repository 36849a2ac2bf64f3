"""The Franka hand, spoken to directly: its protocol is small, and libfranka's client cannot do without waiting.

Version 3 of the interface, which the hands of Panda and FR3 speak: packed little-endian messages over TCP 1338 and a
stream of states over UDP. The methods are those of :class:`molmoact2_drivers.robotiq.Gripper`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

from molmoact2_edge.errors import RobotError

_PORT = 1338
_VERSION = 3
_HEADER = struct.Struct("<HII")
_STATE = struct.Struct("<Idd?H")
_CONNECT, _HOMING, _GRASP, _MOVE, _STOP = range(5)
_SUCCESS, _FAILED, _UNSUCCESSFUL, _ABORTED = range(4)
_SPEED_MAX = 0.1  # m/s
_FORCE_MAX = 70.0  # N, continuously
_GRASP_BELOW = 10.0  # percent: to close means to hold what is there, with force
_STEP_MIN = 2.0  # percent from one movement's target to the next
_TIMEOUT_S = 2.0
_ACTIVATE_TIMEOUT_S = 15.0
_POLL_S = 0.01


@dataclass(frozen=True)
class HandState:
    """One measurement."""

    position: float
    """Percent open, 0 to 100."""
    target: float
    """Percent open: of the newest movement."""
    moving: bool
    object_detected: bool
    temperature: float
    """Degrees Celsius."""
    time_ns: int
    """CLOCK_MONOTONIC of the measurement's arrival; its age says whether the hand is alive."""


class FrankaHand:
    """A Franka hand, served by a thread of its own: only connect, activate, recover and disconnect ever wait."""

    def __init__(self, address: str, *, homing: bool = False) -> None:
        """``homing``: let the hand find its ends at activation, by closing and opening fully."""
        self._address = address
        self._homing = homing
        self._lock = threading.Lock()
        self._stream: socket.socket | None = None
        self._datagrams: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._running = threading.Event()
        self._fault: str | None = None
        self._state: HandState | None = None
        self._heard = False
        self._max_width = 0.0
        self._received = bytearray()
        self._command_id = 0
        self._task: tuple[int, int] | None = None  # command and id of the movement under way
        self._stopping = False
        self._wanted: tuple[float, float, float] | None = None  # percent, speed, force; not yet sent
        self._target = 0.0
        self._grasping = False
        self._changed = threading.Condition(self._lock)
        self._last_status = _SUCCESS

    @property
    def name(self) -> str:
        """For people and for error messages."""
        return f"franka hand at {self._address}"

    @property
    def fault(self) -> str | None:
        """Why it cannot go on, with what to do; None otherwise."""
        return self._fault

    def connect(self) -> None:
        """Open the connection and wait for the first state. Nothing moves.

        Raises:
            RobotError: there is no hand, or it speaks another version.
        """
        if self._stream is not None:
            return
        self._fault = None
        self._received.clear()
        self._task, self._wanted, self._state = None, None, None
        self._heard = self._stopping = self._grasping = False
        try:
            self._open()
        except OSError as error:
            self._close_sockets()
            raise RobotError(f"{self.name} does not answer: {error}") from error
        except RobotError:
            self._close_sockets()
            raise
        self._running.set()
        self._thread = threading.Thread(target=self._run, name="franka-hand", daemon=True)
        self._thread.start()
        give_up = time.monotonic() + _TIMEOUT_S
        while not self._heard and self._fault is None and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        why = self._fault
        if why is None and not self._heard:
            why = f"{self.name} sends no state within {_TIMEOUT_S:g} s"
        if why is None and self._state is None and not self._homing:
            why = f"{self.name} has not found its ends since it was switched on; set homing: true"
        if why is not None:
            self.disconnect()
            raise RobotError(why)

    def activate(self, timeout_s: float = _ACTIVATE_TIMEOUT_S) -> None:
        """Make it ready: with ``homing`` it closes and opens once.

        Raises:
            RobotError: it does not.
        """
        if not self._homing:
            return
        with self._lock:
            self._begin(_HOMING, b"")
            done = self._changed.wait_for(lambda: self._task is None or self._fault is not None, timeout_s)
            found = done and self._last_status == _SUCCESS
            found = found and self._changed.wait_for(lambda: self._state is not None, _TIMEOUT_S)
        if not found or self._fault is not None:
            raise RobotError(self._fault or f"{self.name} did not find its ends; clear its fingers' way")

    def move(self, percent: float, *, speed_percent: float = 100.0, force_percent: float = 30.0) -> None:
        """Open (100) or close (0) that far. Below a tenth it grasps: it closes on what is there and holds it.

        Returns at once; the newest wins, as soon as the movement before it is over or goes the other way.
        """
        with self._lock:
            self._wanted = (min(max(percent, 0.0), 100.0), speed_percent, force_percent)

    def stop(self) -> None:
        """Stay where it is. Returns at once."""
        with self._lock:
            self._wanted = None
            with contextlib.suppress(OSError):  # the connection is lost, which its thread tells
                self._send_stop()

    def state(self) -> HandState:
        """Return the newest measurement.

        Raises:
            RobotError: not connected.
        """
        if self._state is None:
            raise RobotError(f"{self.name} is not connected")
        return self._state

    def recover(self, timeout_s: float = _ACTIVATE_TIMEOUT_S) -> None:
        """Connect anew after a fault. Raises RobotError."""
        self.disconnect()
        try:
            self.connect()
            self.activate(timeout_s)
        except RobotError as error:
            self._fault = f"{error}"
            raise

    def disconnect(self) -> None:
        """Close the connection from any state; does not raise."""
        self._running.clear()
        if self._thread is not None:
            self._thread.join(_TIMEOUT_S)
            self._thread = None
        self._close_sockets()
        self._fault = None

    def _open(self) -> None:
        self._stream = socket.create_connection((self._address, _PORT), timeout=_TIMEOUT_S)
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind((self._stream.getsockname()[0], 0))
        self._datagrams.setblocking(False)
        self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = self._datagrams.getsockname()[1]
        self._send(_CONNECT, struct.pack("<HH", _VERSION, port))
        size = _HEADER.unpack(self._receive(_HEADER.size))[2]
        if size < _HEADER.size + 4:
            raise RobotError(f"{self.name} sends what is no answer ({size} bytes): is this a Franka hand?")
        status, version = struct.unpack_from("<HH", self._receive(size - _HEADER.size))
        if status != _SUCCESS:
            raise RobotError(
                f"{self.name} speaks version {version} of its interface, this driver version {_VERSION}"
            )

    def _receive(self, size: int) -> bytes:
        assert self._stream is not None
        data = b""
        while len(data) < size:
            part = self._stream.recv(size - len(data))
            if not part:
                raise RobotError(f"{self.name} closed the connection: is another program connected to it?")
            data += part
        return data

    def _close_sockets(self) -> None:
        for sock in (self._stream, self._datagrams):
            if sock is not None:
                sock.close()
        self._stream = self._datagrams = None

    def _send(self, command: int, payload: bytes) -> int:
        assert self._stream is not None
        self._command_id += 1
        self._stream.sendall(_HEADER.pack(command, self._command_id, _HEADER.size + len(payload)) + payload)
        return self._command_id

    def _run(self) -> None:
        assert self._stream is not None
        assert self._datagrams is not None
        try:
            while self._running.is_set():
                ready, _, _ = select.select([self._stream, self._datagrams], [], [], _POLL_S)
                if self._datagrams in ready:
                    self._take_states()
                if self._stream in ready:
                    self._take_answers()
                with self._lock:
                    self._carry_on()
        except OSError as error:
            self._fail(f"{self.name} is lost: {error}; check its cable, then recover")
        except RobotError as error:
            self._fail(f"{error}")

    def _fail(self, why: str) -> None:
        with self._lock:
            self._fault = why
            self._changed.notify_all()

    def _take_states(self) -> None:
        assert self._datagrams is not None
        newest = b""
        while True:
            try:
                datagram = self._datagrams.recv(_STATE.size + 1)
            except BlockingIOError:
                break
            newest = datagram if len(datagram) == _STATE.size else newest
        if not newest:
            return
        _, width, max_width, grasped, temperature = _STATE.unpack(newest)
        now = time.monotonic_ns()
        with self._lock:
            self._heard = True
            self._max_width = max_width
            if max_width <= 0.0:
                return  # before its first homing it does not know its ends
            percent = min(max(100.0 * width / max_width, 0.0), 100.0)
            if self._state is None:
                self._target = percent
            moving = self._task is not None
            self._state = HandState(percent, self._target, moving, grasped, float(temperature), now)
            self._changed.notify_all()

    def _take_answers(self) -> None:
        assert self._stream is not None
        data = self._stream.recv(4096)
        if not data:
            raise RobotError(f"{self.name} closed the connection; recover")
        self._received += data
        while len(self._received) >= _HEADER.size:
            command, command_id, size = _HEADER.unpack_from(self._received)
            if size < _HEADER.size + 2:
                raise RobotError(f"{self.name} sends what is no message ({size} bytes); recover")
            if len(self._received) < size:
                return
            status = struct.unpack_from("<H", self._received, _HEADER.size)[0]
            del self._received[:size]
            with self._lock:
                if self._task == (command, command_id):
                    self._task = None
                    self._last_status = status
                    self._changed.notify_all()
                if command == _STOP:
                    self._stopping = False

    def _carry_on(self) -> None:
        """Begin the newest movement where it may begin now."""
        if self._wanted is None or self._max_width <= 0.0:
            return
        percent, speed_percent, force_percent = self._wanted
        grasping = percent < _GRASP_BELOW
        if (grasping and self._grasping) or (
            grasping == self._grasping and abs(percent - self._target) < _STEP_MIN
        ):
            self._wanted = None
            return
        if self._stopping:
            return
        if self._task is not None:
            if self._state is not None and self._turns_back(percent, self._state.position):
                self._send_stop()
            return
        speed = _SPEED_MAX * min(max(speed_percent, 1.0), 100.0) / 100.0
        width = self._max_width * percent / 100.0
        self._wanted = None
        self._target, self._grasping = percent, grasping
        if grasping:
            force = _FORCE_MAX * min(max(force_percent, 1.0), 100.0) / 100.0
            # Whatever it closes on, or nothing, is what was wanted: tolerances over the whole way.
            self._begin(_GRASP, struct.pack("<5d", 0.0, self._max_width, self._max_width, speed, force))
        else:
            self._begin(_MOVE, struct.pack("<2d", width, speed))

    def _turns_back(self, percent: float, position: float) -> bool:
        return (percent - position) * (self._target - position) < 0.0

    def _begin(self, command: int, payload: bytes) -> None:
        self._task = (command, self._send(command, payload))

    def _send_stop(self) -> None:
        if self._task is not None and not self._stopping and self._stream is not None:
            self._stopping = True
            self._send(_STOP, b"")
