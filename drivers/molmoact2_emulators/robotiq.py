"""``molmoact2-edge emulate robotiq``: a 2F-85 gripper on a serial line, Modbus RTU."""

from __future__ import annotations

import argparse
import time

from molmoact2_edge.errors import InputError
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.process import add_fault_options, running
from molmoact2_emulators.pty_wire import PtyWire
from molmoact2_emulators.robotiq_gripper import CLOSED_COUNT, OPEN_COUNT, GripperModel
from molmoact2_emulators.robotiq_modbus import (
    ILLEGAL_ADDRESS,
    ModbusRequest,
    RefusedError,
    Registers,
    RequestReader,
    answer,
)

FAULTS: dict[str, tuple[str, ...]] = {
    "drop": ("probability",),
    "corrupt": ("probability",),
    "delay": ("probability", "seconds"),
    "duplicate": ("probability",),
    "unplug": (),
    "absent": ("servo",),
    "overload": ("servo",),
    "overtemperature": ("servo", "celsius"),
    "power_loss": ("servo",),
    "object": ("percent",),
}
"""``servo`` is the gripper's address; ``object percent=40`` is something that the fingers meet at 40 % open."""

COMMAND_AT = 0x03E8
STATUS_AT = 0x07D0
_COUNT = 3
_LOOK_S = 0.01
_SILENCE_S = 0.02  # longer than between two bytes of a message
_ANSWER_AFTER_S = 0.002  # the gripper's own time


class GripperLine:
    """The gripper's side of a wire."""

    def __init__(self, wire: PtyWire, plan: FaultPlan, unit: int) -> None:
        self._wire = wire
        self._plan = plan
        self._unit = unit
        self._gripper = GripperModel(time.monotonic())
        self._reader = RequestReader()
        self._registers = Registers(self._read, self._write)
        self._last_byte_s = 0.0

    def attend(self) -> None:
        """Wait a moment for bytes, and answer what is whole."""
        data, end_ns = self._wire.receive(_LOOK_S)
        now_s = time.monotonic()
        self._suffer(now_s)
        if now_s - self._last_byte_s > _SILENCE_S:
            self._reader.forget()
        if data:
            self._last_byte_s = now_s
        for request in self._reader.feed(data):
            if request.unit == self._unit:
                self._answer(request, end_ns)

    def _suffer(self, now_s: float) -> None:
        if self._plan.on("power_loss", servo=self._unit):
            self._gripper = GripperModel(now_s)
        gripper = self._gripper
        hot = [
            fault["celsius"] for fault in self._plan.active("overtemperature") if fault["servo"] == self._unit
        ]
        gripper.celsius = hot[-1] if hot else 30.0
        gripper.overloaded = self._plan.on("overload", servo=self._unit)
        objects = self._plan.active("object")
        gripper.object_count = (
            CLOSED_COUNT + (OPEN_COUNT - CLOSED_COUNT) * objects[-1]["percent"] / 100.0 if objects else None
        )
        gripper.advance(now_s)

    def _answer(self, request: ModbusRequest, end_ns: int) -> None:
        away = self._plan.on("absent", servo=self._unit) or self._plan.on("power_loss", servo=self._unit)
        if away or self._plan.strikes("drop") or self._plan.strikes("corrupt"):
            return
        message = answer(request, self._registers)
        earliest_ns = end_ns + round(_ANSWER_AFTER_S * 1e9)
        delayed = self._plan.strikes("delay")
        if delayed is not None:
            earliest_ns += round(delayed["seconds"] * 1e9)
        if self._plan.strikes("drop"):
            return
        if self._plan.strikes("corrupt"):
            hit = self._plan.draw(len(message))
            flipped = message[hit] ^ (1 + self._plan.draw(255))
            message = message[:hit] + bytes([flipped]) + message[hit + 1 :]
        end_ns = self._wire.send(message, earliest_ns)
        if self._plan.strikes("duplicate"):
            self._wire.send(message, end_ns)

    def _read(self, address: int, count: int) -> list[int]:
        for start, words in (
            (STATUS_AT, self._gripper.status_registers()),
            (COMMAND_AT, self._gripper.command_registers()),
        ):
            if start <= address and address + count <= start + _COUNT:
                return list(words[address - start : address - start + count])
        raise RefusedError(ILLEGAL_ADDRESS)

    def _write(self, address: int, values: list[int]) -> None:
        if address < COMMAND_AT or address + len(values) > COMMAND_AT + _COUNT:
            raise RefusedError(ILLEGAL_ADDRESS)
        words = list(self._gripper.command_registers())
        words[address - COMMAND_AT : address - COMMAND_AT + len(values)] = values
        self._gripper.command((words[0], words[1], words[2]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this emulator's options."""
    parser.add_argument(
        "--unit", type=int, default=9, metavar="N", help="its Modbus address (default: %(default)s)"
    )
    parser.add_argument("--baud", type=int, default=115200, metavar="N", help="(default: %(default)s)")
    add_fault_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Emulate until asked to end; returns the exit code."""
    if not 1 <= arguments.unit <= 247 or arguments.baud <= 0:
        raise InputError(f"unit is 1 to 247 and baud above 0, got {arguments.unit} and {arguments.baud}")
    plan = FaultPlan(FAULTS, seed=arguments.seed)
    wire = PtyWire("ttyROBOTIQ", arguments.baud)
    line = GripperLine(wire, plan, arguments.unit)
    try:
        with running(str(wire.path), plan, arguments) as ended:
            while not ended.is_set():
                if plan.on("unplug"):
                    wire.unplug()
                else:
                    wire.plug()
                line.attend()
    finally:
        wire.close()
    return 0
