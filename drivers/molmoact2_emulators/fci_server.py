"""Sockets and time of an emulated Franka arm: one thread serves the arm and its hand, and keeps the millisecond.

A tick has an absolute deadline. Where the computer is too late for one, the robot's time falls behind instead of
catching up: states that come in a burst would be lost packets to the client. `patience_s` makes the robot's time wait
for the client's answer in the same way, so that a slow computer loses no packet that no fault has taken.
"""

from __future__ import annotations

import heapq
import select
import socket
import threading
import time
from dataclasses import dataclass, field

from molmoact2_edge.errors import RobotError
from molmoact2_emulators.accepting import AcceptPause
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.fci_hand import CONNECT as HAND_CONNECT
from molmoact2_emulators.fci_hand import HAND_PORT, EmulatedHand
from molmoact2_emulators.fci_hand import HEADER as HAND_HEADER
from molmoact2_emulators.fci_motion import PERIOD_S
from molmoact2_emulators.fci_robot import EmulatedArm
from molmoact2_emulators.fci_wire import COMMAND_PORT, CONNECT_REQUEST, HEADER, RobotCommand, unpack_command

FAULTS: dict[str, tuple[str, ...]] = {
    "reflex": (),
    "lost_packets": ("probability",),
    "delay": ("probability", "seconds"),
    "tcp_close": (),
    "user_stop": (),
}
"""A collision, datagrams lost either way, states that come late, both TCP connections closed, the stop pressed."""

_HAND_PERIOD_TICKS = 20
_MESSAGE_MAX = 1 << 16
_DATAGRAM_MAX = 1 << 11
_SPIN_S = 100e-6  # a sleep wakes up late by about this


@dataclass
class _Client:
    """One TCP connection, and where its states go once it has said so."""

    stream: socket.socket
    received: bytearray = field(default_factory=bytearray)
    states_to: tuple[str, int] | None = None


class FciServer:
    """Serves one arm with its hand on one address. `serve` runs in the caller's thread."""

    def __init__(
        self,
        arm: EmulatedArm,
        hand: EmulatedHand,
        plan: FaultPlan,
        address: str,
        *,
        rate_hz: float = 1000.0,
        patience_s: float = 0.0,
    ) -> None:
        """Open the ports.

        Raises:
            RobotError: one of them is taken, or the address is not this computer's.
        """
        self._arm = arm
        self._hand = hand
        self._plan = plan
        self._period_ns = round(1e9 / rate_hz)
        self._patience_ns = round(patience_s * 1e9)
        self._listeners: list[socket.socket] = []
        self.pause = AcceptPause(f"the arm at {address}")
        self._arm_client: _Client | None = None
        self._hand_client: _Client | None = None
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.setblocking(False)
        try:
            self._datagrams.bind((address, 0))
            self._arm_listener = self._listen(address, COMMAND_PORT)
            self._hand_listener = self._listen(address, HAND_PORT)
        except OSError as error:
            self.close()
            raise RobotError(
                f"{address}: cannot listen on TCP {COMMAND_PORT} and {HAND_PORT} ({error.strerror}); "
                "another emulator may have them: try --address 127.0.0.2"
            ) from error
        self._message_id = 0
        self._sent_id = -1  # of the newest state that the client can have got
        self._command: RobotCommand | None = None
        self._late: list[tuple[int, bytes, tuple[str, int]]] = []
        self._reflexes_done = 0
        self._user_stopped = False

    def serve(self, ended: threading.Event) -> None:
        """Run until `ended` is set."""
        due = time.monotonic_ns() + self._period_ns
        while not ended.is_set():
            self._wait(due)
            now = time.monotonic_ns()
            if now < due or (now < due + self._patience_ns and self._answer_pending()):
                continue
            self._tick()
            due = max(due + self._period_ns, now)

    def close(self) -> None:
        """Close every socket."""
        for listener in self._listeners:
            listener.close()
        self._drop_arm_client()
        self._drop_hand_client()
        self._datagrams.close()

    def _listen(self, address: str, port: int) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        listener.setblocking(False)
        return listener

    def _answer_pending(self) -> bool:
        return self._arm.expects_command and self._command is None and self._sent_id == self._message_id

    def _wait(self, due_ns: int) -> None:
        """Serve what comes until the deadline or, beyond it, once."""
        left_s = (due_ns - time.monotonic_ns()) * 1e-9
        timeout_s = max(0.0, left_s - _SPIN_S) if left_s > 0.0 else PERIOD_S
        sockets = [*self._listeners, self._datagrams] if self.pause.over else [self._datagrams]
        clients = [client for client in (self._arm_client, self._hand_client) if client is not None]
        ready, _, _ = select.select([*sockets, *(client.stream for client in clients)], [], [], timeout_s)
        for ready_socket in ready:
            if ready_socket is self._datagrams:
                self._take_commands()
            elif ready_socket is self._arm_listener or ready_socket is self._hand_listener:
                self._accept(ready_socket)
            else:
                self._serve_client(ready_socket)

    def _accept(self, listener: socket.socket) -> None:
        try:
            stream, _ = listener.accept()
        except OSError as error:
            self.pause.begin(error)
            return
        taken = self._arm_client if listener is self._arm_listener else self._hand_client
        if taken is not None or self._plan.on("tcp_close"):
            stream.close()  # one client at a time, as on the real arm
            return
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if listener is self._arm_listener:
            self._arm_client = _Client(stream)
        else:
            self._hand_client = _Client(stream)

    def _serve_client(self, stream: socket.socket) -> None:
        is_arm = self._arm_client is not None and stream is self._arm_client.stream
        client = self._arm_client if is_arm else self._hand_client
        if client is None or client.stream is not stream:
            return
        try:
            data = stream.recv(_MESSAGE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.received += data
        header = HEADER if is_arm else HAND_HEADER
        while len(client.received) >= header.size:
            command, command_id, size = header.unpack_from(client.received)
            if not header.size <= size <= _MESSAGE_MAX:
                self._drop(client)
                return
            if len(client.received) < size:
                return
            payload = bytes(client.received[header.size : size])
            del client.received[:size]
            if is_arm:
                self._serve_arm(client, command, command_id, payload)
            else:
                self._serve_hand(client, command, command_id, payload)

    def _serve_arm(self, client: _Client, command: int, command_id: int, payload: bytes) -> None:
        self._arm.handle(command, command_id, payload)
        connect = self._arm.version.commands.index("connect")
        if command == connect and len(payload) == CONNECT_REQUEST.size:
            version, port = CONNECT_REQUEST.unpack(payload)
            if version == self._arm.version.number:
                client.states_to = (client.stream.getpeername()[0], port)

    def _serve_hand(self, client: _Client, command: int, command_id: int, payload: bytes) -> None:
        for message in self._hand.handle(command, command_id, payload):
            self._send(client, message)
        if command == HAND_CONNECT and len(payload) == CONNECT_REQUEST.size:
            client.states_to = (client.stream.getpeername()[0], CONNECT_REQUEST.unpack(payload)[1])

    @staticmethod
    def _send(client: _Client, message: bytes) -> None:
        try:
            client.stream.setblocking(True)
            client.stream.settimeout(1.0)
            client.stream.sendall(message)
        except OSError:
            return  # the next read says that it is gone
        finally:
            client.stream.setblocking(False)

    def _take_commands(self) -> None:
        layout = self._arm.version.command
        while True:
            try:
                datagram = self._datagrams.recv(_DATAGRAM_MAX)
            except OSError:
                return
            if len(datagram) != layout.size:
                continue
            if self._plan.strikes("lost_packets") is not None:
                self._sent_id = -1  # no use in waiting for it
                continue
            command = unpack_command(layout, datagram)
            # An answer to an older state has missed its millisecond.
            if command.message_id == self._message_id:
                self._command = command

    def _tick(self) -> None:
        self._cause_faults()
        self._arm.step(self._command)
        self._command = None
        self._message_id += 1
        now = time.monotonic_ns()
        client = self._arm_client
        if client is not None:
            if client.states_to is not None:
                self._send_state(self._arm.state(self._message_id), client.states_to, now)
            answers = self._arm.take_answers()
            if answers:
                self._send(client, answers)
        for message in self._hand.step(PERIOD_S):
            if self._hand_client is not None:
                self._send(self._hand_client, message)
        if self._message_id % _HAND_PERIOD_TICKS == 0 and self._hand_client is not None:
            self._send_datagram(self._hand.state(), self._hand_client.states_to)
        while self._late and self._late[0][0] <= now:
            _, datagram, target = heapq.heappop(self._late)
            self._send_datagram(datagram, target)

    def _send_state(self, datagram: bytes, target: tuple[str, int], now_ns: int) -> None:
        if self._plan.strikes("lost_packets") is not None:
            return
        delay = self._plan.strikes("delay")
        if delay is not None:
            heapq.heappush(self._late, (now_ns + round(delay["seconds"] * 1e9), datagram, target))
            return
        self._sent_id = self._message_id
        self._send_datagram(datagram, target)

    def _send_datagram(self, datagram: bytes, target: tuple[str, int] | None) -> None:
        if target is None:
            return
        try:
            self._datagrams.sendto(datagram, target)
        except OSError:
            return  # nobody listens there any more

    def _cause_faults(self) -> None:
        reflexes = len(self._plan.active("reflex"))
        if reflexes > self._reflexes_done:
            self._arm.fail("joint_reflex" if self._arm.moving else "cartesian_reflex")
        self._reflexes_done = reflexes
        stopped = self._plan.on("user_stop")
        if stopped and not self._user_stopped:
            self._arm.press_user_stop()
        elif self._user_stopped and not stopped:
            self._arm.release_user_stop()
        self._user_stopped = stopped
        if self._plan.on("tcp_close"):
            self._drop_arm_client()
            self._drop_hand_client()

    def _drop(self, client: _Client) -> None:
        if client is self._arm_client:
            self._drop_arm_client()
        else:
            self._drop_hand_client()

    def _drop_arm_client(self) -> None:
        if self._arm_client is not None:
            self._arm_client.stream.close()
            self._arm_client = None
            self._arm.abandon()

    def _drop_hand_client(self) -> None:
        if self._hand_client is not None:
            self._hand_client.stream.close()
            self._hand_client = None
            self._hand.forget()
