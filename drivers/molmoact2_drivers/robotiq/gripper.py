"""A Robotiq 2F-85 on Modbus RTU. Its thread reads and writes; whoever commands it waits for nothing.

The percentages are those of every gripper here: 0 closed, 100 open. Registers as in the manufacturer's manual of the
2F-85: three that are written at 0x03E8, three that are read at 0x07D0.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from dataclasses import dataclass

from molmoact2_drivers.robotiq.modbus import ModbusLine, UnpluggedError
from molmoact2_edge.errors import InputError, RobotError

_COMMAND_AT = 0x03E8
_STATUS_AT = 0x07D0
_REGISTERS = 3
_ACTIVATE = 0x01
_GO = 0x08
_STATUS_ACTIVATED = 3

OPEN_COUNT = 3
CLOSED_COUNT = 228
"""Where the fingers of a 2F-85 end, in counts of 0 to 255."""

_POLL_S = 0.05  # while it activates
_SILENCE_S = 1.0  # without an answer for longer is a fault
_REOPEN_PAUSE_S = 0.05
_KEEP_ALIVE_S = (
    0.25  # the command is written again, so that one that was lost on the wire is not lost for good
)
_JOIN_TIMEOUT_S = 3.0

_FAULTS = {
    0x05: "the action waits for the activation to end",
    0x07: "it must be activated before it acts",
    0x08: "it is too hot (85 °C or more); let it cool",
    0x09: "it was not spoken to for a second",
    0x0A: "its supply is below the minimum; look at the 24 V",
    0x0B: "it releases by itself",
    0x0C: "an internal fault; if it stays after `recover`, ask the manufacturer",
    0x0D: "the activation failed; is something between the fingers?",
    0x0E: "its current is too high",
    0x0F: "it has released by itself, and must be activated again",
}
_STOPPING_FAULT = 0x0A
"""From this code on it acts no more until it is activated anew; also 0x08, while it is hot."""


@dataclass(frozen=True)
class GripperState:
    """One reading."""

    position: float
    """Per cent: 0 closed, 100 open."""
    target: float
    """Per cent, as the gripper has understood it."""
    current: float
    """Amperes."""
    moving: bool
    object_detected: bool
    """It was stopped by something before it reached its target."""
    ready: bool
    """It is activated, and acts."""
    fault_code: int
    """0: none; else as in the manual."""
    time_ns: int
    """CLOCK_MONOTONIC of the reading."""

    def age_ns(self, now_ns: int) -> int:
        """Nanoseconds from the reading to ``now_ns``; liveness is judged by this alone."""
        return now_ns - self.time_ns


def describe_fault(code: int) -> str:
    """Return what a fault code means."""
    return _FAULTS.get(code, f"fault {code:#04x}")


class Gripper:
    """The gripper. Methods may be called from any thread; `connect`, `activate`, `recover` and `disconnect` wait."""

    def __init__(self, port: str, *, baud: int = 115200, unit: int = 9, rate_hz: float = 50.0) -> None:
        """Opens nothing; ``rate_hz`` is how often it is read, up to 100.

        Raises:
            InputError: no port, or a unit or rate that cannot be.
        """
        if not port:
            raise InputError(
                "which port is the gripper on? Give its path; `molmoact2-edge find-port` finds it"
            )
        if not 1 <= unit <= 247:
            raise InputError(f"a Modbus device has an address from 1 to 247, got {unit}")
        if not 0.0 < rate_hz <= 100.0:
            raise InputError(f"rate_hz is above 0 and at most 100, got {rate_hz:g}")
        self._line = ModbusLine(port, baud)
        self._unit = unit
        self._period_s = 1.0 / rate_hz
        self._state: GripperState | None = None
        self._command = (0, 0, 0)
        self._fault: str | None = None
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"robotiq 2f-85 on {self._line.port}"

    @property
    def fault(self) -> str | None:
        """Why it cannot go on, with what to do; None otherwise."""
        return self._fault

    def connect(self) -> None:
        """Open the port and read the status once; nothing is written.

        Raises:
            MissingExtraError: pyserial is not installed.
            RobotError: no such port, no answer, or it is connected already.
        """
        if self._line.is_open or self._thread is not None:
            raise RobotError(f"{self.name} is connected already; disconnect it first")
        self._line.open()
        try:
            self._read()
        except BaseException:
            self._line.close()
            raise
        self._fault = None

    def activate(self, timeout_s: float = 10.0) -> None:
        """Have it ready to act, and start its thread. One that was not activated opens and closes once, fully.

        Raises:
            RobotError: not connected, a fault, or it does not become ready in time.
        """
        if self._thread is not None:
            return
        if not self._line.is_open:
            raise RobotError(f"{self.name} is not connected; connect it first")
        state = self._read()
        if not state.ready or state.fault_code:
            self._activate(timeout_s)
        self._command = (_ACTIVATE << 8, 0, 0)
        self._fault = None
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="robotiq", daemon=True)
        self._thread.start()

    def move(self, percent: float, *, speed_percent: float = 100.0, force_percent: float = 20.0) -> None:
        """Go to an opening of 0 (closed) to 100 (open) per cent. Returns at once; the newest target wins.

        Speed 0 to 100 per cent are 20 to 150 mm/s, force 0 to 100 per cent 20 to 235 N.

        Raises:
            InputError: a value is not finite, or outside 0 to 100.
            RobotError: it is not activated, or has a fault.
        """
        for what, value in (
            ("percent", percent),
            ("speed_percent", speed_percent),
            ("force_percent", force_percent),
        ):
            if not (math.isfinite(value) and 0.0 <= value <= 100.0):
                raise InputError(f"{what} is 0 to 100, got {value}")
        self._require_running()
        goal = round(CLOSED_COUNT + (OPEN_COUNT - CLOSED_COUNT) * percent / 100.0)
        # The ends are asked for beyond themselves, so that nothing is left of them.
        goal = 255 if percent == 0.0 else 0 if percent == 100.0 else goal
        speed, force = (round(share * 2.55) for share in (speed_percent, force_percent))
        self._command = ((_ACTIVATE | _GO) << 8, goal, speed << 8 | force)
        self._wake.set()

    def stop(self) -> None:
        """Stay where it is; what it holds stays held. Returns at once.

        Raises:
            RobotError: it is not activated, or has a fault.
        """
        self._require_running()
        _, goal, speed_force = self._command
        self._command = (_ACTIVATE << 8, goal, speed_force)
        self._wake.set()

    def state(self) -> GripperState:
        """The newest reading, with its own time.

        Raises:
            RobotError: it was never connected.
        """
        state = self._state
        if state is None:
            raise RobotError(f"{self.name} is not connected; connect it first")
        return state

    def recover(self, timeout_s: float = 10.0) -> None:
        """Open a port that was plugged in again, and activate a gripper that has lost it: that moves it fully once.

        Raises:
            RobotError: the fault is still there.
        """
        self._end_thread()
        if not self._line.is_open:
            self._line.open()
        self.activate(timeout_s)

    def disconnect(self) -> None:
        """Close the port, from any state; the gripper keeps its grip."""
        self._end_thread()
        with contextlib.suppress(RobotError, OSError):
            self._line.close()
        self._state = None
        self._fault = None

    # --- the wire ---

    def _read(self) -> GripperState:
        began_ns = time.monotonic_ns()
        first, second, third = self._line.read_registers(self._unit, _STATUS_AT, _REGISTERS)
        status = first >> 8
        contact = status >> 6
        activated = bool(status & _ACTIVATE) and status >> 4 & 3 == _STATUS_ACTIVATED
        state = GripperState(
            position=_percent(third >> 8),
            target=_percent(second & 0xFF),
            current=(third & 0xFF) * 0.01,
            moving=activated and bool(status & _GO) and contact == 0,
            object_detected=contact in (1, 2),
            ready=activated,
            fault_code=second >> 8 & 0x0F,
            time_ns=(began_ns + time.monotonic_ns()) // 2,
        )
        self._state = state
        return state

    def _write(self, command: tuple[int, int, int]) -> None:
        self._line.write_registers(self._unit, _COMMAND_AT, command)

    def _activate(self, timeout_s: float) -> None:
        # Only a rising edge activates.
        self._write((0, 0, 0))
        self._write((_ACTIVATE << 8, 0, 0))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self._read()
            if _stops(state.fault_code):
                raise RobotError(f"{self.name} does not become ready: {describe_fault(state.fault_code)}")
            if state.ready:
                return
            time.sleep(_POLL_S)
        raise RobotError(
            f"{self.name} was not ready within {timeout_s:g} s of its activation; can the fingers move freely?"
        )

    # --- its thread ---

    def _require_running(self) -> None:
        if self._fault is not None:
            raise RobotError(self._fault)
        if self._thread is None:
            raise RobotError(f"{self.name} is not activated; activate it first")

    def _end_thread(self) -> None:
        thread = self._thread
        if thread is not None:
            self._ended.set()
            self._wake.set()
            thread.join(_JOIN_TIMEOUT_S)
            self._thread = None

    def _run(self) -> None:
        written: tuple[int, int, int] | None = None
        written_s = heard_s = time.monotonic()
        while not self._ended.is_set():
            now_s = time.monotonic()
            try:
                command = self._command
                if command != written or now_s - written_s > _KEEP_ALIVE_S:
                    self._write(command)
                    written, written_s = command, now_s
                if self._judge(self._read()):
                    return
                heard_s = now_s
            except UnpluggedError:
                written = None
                self._ended.wait(_REOPEN_PAUSE_S)
                with contextlib.suppress(RobotError):
                    self._line.open()
            except RobotError as error:
                if time.monotonic() - heard_s > _SILENCE_S:
                    self._fault = f"{self.name}: {error}; `recover` tries again"
                    return
            if time.monotonic() - heard_s > _SILENCE_S and not self._line.is_open:
                self._fault = (
                    f"{self.name} was unplugged, and is gone for {_SILENCE_S:g} s; what it holds it keeps. Plug it in "
                    "again; `recover` then opens it"
                )
                return
            self._wake.wait(max(0.0, now_s + self._period_s - time.monotonic()))
            self._wake.clear()

    def _judge(self, state: GripperState) -> bool:
        """Whether it cannot go on; `fault` then says why."""
        if _stops(state.fault_code):
            self._fault = (
                f"{self.name}: {describe_fault(state.fault_code)}; `recover` then activates it again"
            )
        elif not state.ready:
            self._fault = (
                f"{self.name} has lost its activation, as after a loss of power; `recover` activates it again, which "
                "opens and closes it once"
            )
        return self._fault is not None


def _stops(code: int) -> bool:
    return code >= _STOPPING_FAULT or code == 0x08


def _percent(count: int) -> float:
    share = (CLOSED_COUNT - count) / (CLOSED_COUNT - OPEN_COUNT)
    return 100.0 * min(1.0, max(0.0, share))
