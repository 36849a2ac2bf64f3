"""``molmoact2-edge emulate yam``: one YAM arm or two, each seven Damiao motors on a CAN bus of its own.

Without options the bus is behind an slcan adapter on a pseudo-terminal, so that it needs no CAN in the kernel; the
first line is its path, of two arms ``LEFT RIGHT``. With ``--socketcan`` the motors sit on interfaces that exist, such
as vcan0.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError
from molmoact2_emulators.damiao_arm import DM4340, FAULTS, MOTORS, DamiaoArm, Loads, pose_radians, yam_motors
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.process import add_fault_options, ask_for_punctuality, running
from molmoact2_emulators.pty_wire import PtyWire
from molmoact2_emulators.slcan_adapter import SlcanAdapter, line_of
from molmoact2_emulators.socketcan_bus import SocketCanBus

_IDLE_S = 0.01
_GRIPPER_OPEN = 6.57  # rad
_POSE = (0.0, 60.0, 60.0, -30.0, 0.0, 0.0)
_FAULTS = {**FAULTS, "corrupt": ("probability",), "unplug": (), "unplug_bus": ("bus",)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--bimanual", action="store_true", help="two arms, two buses; two paths on the first line"
    )
    parser.add_argument(
        "--baud",
        type=float,
        metavar="N",
        help="pace the adapter's serial line, as with a UART; without it only the CAN bus takes time, as over USB",
    )
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="the adapter says z for every frame it took, as Lawicel's can",
    )
    parser.add_argument(
        "--socketcan",
        metavar="INTERFACE[,INTERFACE]",
        help="put the motors on CAN interfaces of this kernel in the place of adapters",
    )
    parser.add_argument(
        "--gravity",
        action="store_true",
        help="the arms have the weight that the robot file yam-bimanual gives",
    )
    parser.add_argument(
        "--pose",
        type=float,
        nargs=MOTORS,
        default=(*_POSE, 50.0),
        metavar="N",
        help="where the arms stand: six joints in degrees, the gripper from 0 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--vmax",
        type=float,
        default=DM4340.velocity,
        metavar="N",
        help="register 22 of the motors 1 to 3, rad/s (default: %(default)s)",
    )
    add_fault_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Emulate until asked to end."""
    plan = FaultPlan(_FAULTS, arguments.seed)
    loads = _weight() if arguments.gravity else None
    pose = pose_radians(arguments.pose[:-1], arguments.pose[-1], _GRIPPER_OPEN)
    count = 2 if arguments.bimanual else 1

    def arm(index: int) -> DamiaoArm:
        motors = yam_motors(pose, arguments.vmax)
        return DamiaoArm(motors, plan, time.monotonic_ns(), loads, first_motor=1 + index * MOTORS)

    with ExitStack() as cleanup:
        servers: list[Callable[[threading.Event], None]] = []
        paths = []
        if arguments.socketcan is not None:
            interfaces = arguments.socketcan.split(",")
            if len(interfaces) != count:
                raise InputError(f"--socketcan: expected {count} interface(s), got {arguments.socketcan!r}")
            for index, interface in enumerate(interfaces):
                bus = SocketCanBus(interface, arm(index))
                cleanup.callback(bus.close)
                servers.append(bus.serve)
                paths.append(interface)
        else:
            for index in range(count):
                adapter = _Adapter(f"yam-{index + 1}", arm(index), plan, index + 1, arguments)
                cleanup.callback(adapter.close)
                servers.append(adapter.serve)
                paths.append(str(adapter.path))
        ended = cleanup.enter_context(running(" ".join(paths), plan, arguments))
        ask_for_punctuality()
        others = [
            threading.Thread(target=server, args=(ended,), name="can", daemon=True) for server in servers[1:]
        ]
        for other in others:
            other.start()
        servers[0](ended)
        for other in others:
            other.join()
    return 0


class _Adapter:
    """An slcan adapter with an arm behind it. One thread serves."""

    def __init__(
        self, name: str, arm: DamiaoArm, plan: FaultPlan, number: int, arguments: argparse.Namespace
    ) -> None:
        self._arm = arm
        self._plan = plan
        self._number = number
        self._adapter = SlcanAdapter(arguments.acknowledge)
        self._wire = PtyWire(name, arguments.baud)
        self.path = self._wire.path

    def serve(self, ended: threading.Event) -> None:
        """Answer until the event is set."""
        while not ended.is_set():
            self._plug_or_unplug()
            data, time_ns = self._wire.receive(self._patience_s())
            self._arm.advance(time.monotonic_ns())
            if data:
                frames, answers = self._adapter.take(self._garbled(data))
                if answers:
                    self._wire.send(answers, time_ns)
                self._arm.send(frames, time_ns)
            for arrival_ns, frame in self._arm.arrived(time.monotonic_ns() + 50_000):
                if self._adapter.is_open:
                    self._wire.send(self._garbled(line_of(frame)), arrival_ns)

    def close(self) -> None:
        """Remove the device."""
        self._wire.close()

    def _patience_s(self) -> float:
        arrival_ns = self._arm.next_arrival_ns()
        if arrival_ns is None:
            return _IDLE_S
        return min(_IDLE_S, max(0.0, (arrival_ns - time.monotonic_ns()) * 1e-9))

    def _plug_or_unplug(self) -> None:
        out = bool(self._plan.active("unplug")) or self._plan.on("unplug_bus", bus=self._number)
        if out and self._wire.plugged:
            self._wire.unplug()
            self._adapter.unplug()
        elif not out and not self._wire.plugged:
            self._wire.plug()

    def _garbled(self, data: bytes) -> bytes:
        """Return the bytes of a line as they come through; a serial line has no checksum."""
        if self._plan.strikes("corrupt") is None:
            return data
        at = self._plan.draw(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._plan.draw(8))]) + data[at + 1 :]


def _weight() -> Loads:
    from molmoact2_drivers.yam.settings import read_settings

    weight = read_settings(load_robot("yam-bimanual")).gravity
    if weight is None:
        raise InputError(
            "--gravity: the robot file yam-bimanual gives no weight (connection.gravity is null)"
        )
    chain = weight.chain()
    return lambda angles: [float(torque) for torque in chain.torques(list(angles[: chain.joint_count]))]
