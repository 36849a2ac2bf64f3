"""One YAM arm or two, each seven Damiao motors on a CAN bus of its own.

The bus belongs to C++: the loop's thread while a loop runs, else a thread of the port that repeats the last target
before the motors' own timeout. Python asks, sets modes and reads registers; it never has to be in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.life_cycle import require_life_cycle
from molmoact2_drivers.protocol import LifeCycle, RobotCapabilities, RobotState, StopPolicy
from molmoact2_drivers.yam.arm_joints import capabilities, make_port, motor_places
from molmoact2_drivers.yam.discovery import MotorIdentity
from molmoact2_drivers.yam.fault_text import FIRST_ERROR, fault_text, gone_text, names, status_text
from molmoact2_drivers.yam.identification import identify
from molmoact2_drivers.yam.registers import CONTROL_MODE, MIT_MODE, TIMEOUT, Register
from molmoact2_drivers.yam.settings import YamSettings
from molmoact2_edge.errors import InputError, RobotError

if TYPE_CHECKING:
    from molmoact2_edge._core.damiao import DamiaoPort, DamiaoReport

_ENABLED = 1
_FEEDBACK_S = 1.0
_REOPEN_S = 2.0
_LOOK_S = 0.005
_WRITE_S = 0.1
_ATTEMPTS = 4
_PAUSE_S = 0.05
_GRIPPER_SLACK = 10.0  # percent beyond closed and open that a gripper's fingers give way


class YamRobot:
    """A `molmoact2_drivers.Robot`."""

    def __init__(self, settings: YamSettings, loop_rate_hz: float) -> None:
        """`loop_rate_hz` is how often a loop will exchange with the motors: three quarters of its period are theirs."""
        self._settings = settings
        self._exchange_timeout_s = min(0.75 / loop_rate_hz, 0.02)
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._port: DamiaoPort | None = None
        self._places = motor_places(settings)
        self.identities: dict[str, MotorIdentity] = {}
        """Who answered when it was connected, by joint."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"yam on {' and '.join(arm.port or '(no port)' for arm in self._settings.arms)}"

    @property
    def capabilities(self) -> RobotCapabilities:
        """What the arms can do; complete from the beginning."""
        return capabilities(self._settings)

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        self._look()
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR; None otherwise."""
        self._look()
        return self._fault

    def connect(self) -> None:
        """Asks every motor who it is, then opens the buses for the loop; nothing is written. DISCONNECTED -> CONNECTED.

        Raises:
            InputError: an arm has no port.
            RobotError: a bus does not open, a motor does not answer, or its scales are not those of the robot file.
        """
        self._require(LifeCycle.DISCONNECTED)
        self.identities = identify(self._settings)
        self._port = port = make_port(self._settings, self._exchange_timeout_s)
        error = port.open()
        if error is not None:
            self._port = None
            raise RobotError(f"{self.name}: {error}")
        silent = self._wait_for(
            lambda report: [not motor["time_ns"] for motor in report["motors"]], _FEEDBACK_S
        )
        if silent:
            port.close()
            self._port = None
            raise RobotError(
                f"{self.name}: no feedback from {names(self._places, silent)}; check their power and the wiring"
            )
        self._life_cycle, self._fault = LifeCycle.CONNECTED, None

    def configure(self) -> None:
        """Clears errors of a run before, sets and reads back timeout and control mode. -> CONFIGURED.

        Raises:
            RobotError: a motor does not take a setting, has an error that stays, or the gripper's ends are wrong.
        """
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
        port = self._open_port()
        for index, motor in enumerate(port.report()["motors"]):
            # A session that ended leaves its motors with link_lost: they braked by themselves, as they should.
            if motor["status"] >= FIRST_ERROR and not self._insist(index, "clear_error"):
                raise RobotError(
                    f"{self._places[index]} has an error that stays: {status_text(motor['status'])}"
                )
            self._set_register(index, CONTROL_MODE, MIT_MODE)
            self._set_register(index, TIMEOUT, self._settings.timeout_counts)
        port.clear_faults()
        self._check_grippers(port.report())
        self._life_cycle = LifeCycle.CONFIGURED

    def activate(self) -> None:
        """Holds the measured pose, with a stiffness that grows from nothing, and follows targets. CONFIGURED -> ACTIVE.

        Raises:
            RobotError: a motor does not answer, or does not switch on; then all are switched off.
        """
        self._require(LifeCycle.CONFIGURED)
        self._drive("follow")
        self._life_cycle = LifeCycle.ACTIVE

    def port(self) -> DamiaoPort:
        """What the control thread reads and writes. CONFIGURED or ACTIVE."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        return self._open_port()

    def read_state(self) -> RobotState:
        """The newest feedback of all motors, with the time of the oldest among them. CONNECTED, CONFIGURED, ACTIVE."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        motors = self._open_port().report()["motors"]
        return RobotState(
            positions=np.array([motor["position"] for motor in motors]),
            time_ns=min(motor["time_ns"] for motor in motors),
            velocities=np.array([motor["velocity"] for motor in motors]),
            temperatures=np.array([max(motor["driver_celsius"], motor["rotor_celsius"]) for motor in motors]),
        )

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Sends joint targets once, unfiltered: (n,) finite. ACTIVE."""
        self._require(LifeCycle.ACTIVE)
        wanted = np.array(positions, dtype=np.float64)
        if wanted.shape != (len(self._places),) or not np.isfinite(wanted).all():
            raise InputError(f"targets are {len(self._places)} finite joint positions; got {positions!r}")
        deadline = time.monotonic() + _WRITE_S
        # The wire may be in use for a moment: the keeper's exchange, which no loop keeps away while none runs.
        while not self._open_port().write(wanted):
            self._look()
            if self._fault is not None or time.monotonic() >= deadline:
                raise RobotError(f"{self.name} did not take the targets: {self._fault or 'the bus is gone'}")
            time.sleep(_LOOK_S)

    def stop(self, policy: StopPolicy) -> None:
        """Ends motion. ACTIVE -> CONFIGURED; in CONFIGURED it changes what the motors do; in ERROR as far as they obey.

        HOLD keeps the last target where it is near the pose, so that an arm does not sink by what its weight bends it.
        """
        self._look()
        if (
            self._life_cycle not in (LifeCycle.ACTIVE, LifeCycle.CONFIGURED, LifeCycle.ERROR)
            or self._port is None
        ):
            return
        broken = self._life_cycle is LifeCycle.ERROR
        mode = "hold" if policy is StopPolicy.HOLD else "damp"
        if policy is StopPolicy.TORQUE_OFF:
            self._switch_off(must=not broken)
        elif broken or self._port.report()["mode"] != "listen":
            # Motors that are on already: nothing to wait for, whoever may be silent.
            self._port.set_mode(mode)
        else:
            self._drive(mode)
        if not broken:
            self._life_cycle = LifeCycle.CONFIGURED

    def recover(self) -> None:
        """Clears the motors' errors and switches them on again where they stand; the arm is held. ERROR -> CONFIGURED.

        Raises:
            RobotError: a bus is still gone, a motor does not answer, or its error stays.
        """
        self._look()
        self._require(LifeCycle.ERROR)
        port = self._open_port()
        closed = self._wait_for(lambda report: [not bus["open"] for bus in report["buses"]], _REOPEN_S)
        if closed:
            raise RobotError(f"{self.name}: {gone_text(port.report()) or 'a bus is closed'}")
        port.set_mode("hold")
        for index, motor in enumerate(port.report()["motors"]):
            if motor["fault"] is None and not motor["silent"] and motor["status"] == _ENABLED:
                continue
            if not self._insist(index, "clear_error") or not self._insist(index, "enable"):
                status = port.report()["motors"][index]["status"]
                raise RobotError(f"{self._places[index]} does not come back: {status_text(status)}")
        port.clear_faults()
        self._life_cycle, self._fault = LifeCycle.CONFIGURED, None

    def disconnect(self) -> None:
        """Closes the buses from any state. Motors that hold or damp then brake by themselves after their timeout."""
        port, self._port = self._port, None
        if port is not None:
            if self._life_cycle is LifeCycle.ACTIVE:
                port.set_mode("hold")
            port.close()
        self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None

    def statistics(self) -> DamiaoReport:
        """Return what is known about motors and buses, counters included. CONNECTED, CONFIGURED, ACTIVE, ERROR."""
        return self._open_port().report()

    # --- configuring ---

    def _set_register(self, index: int, register: Register, value: int) -> None:
        port, wanted = self._open_port(), register.encode(value)

        def holds() -> bool:
            return port.read_register(index, register.address) == wanted or (
                port.write_register(index, register.address, wanted)
                and port.read_register(index, register.address) == wanted
            )

        if not _insist(holds):
            raise RobotError(
                f"{self._places[index]} did not take {value} for register {register.address} ({register.name})"
            )

    def _check_grippers(self, report: DamiaoReport) -> None:
        for place, motor in zip(self._places, report["motors"], strict=True):
            position = motor["position"]
            if place.is_gripper and not -_GRIPPER_SLACK <= position <= 100.0 + _GRIPPER_SLACK:
                closed, opened = place.arm.gripper_closed, place.arm.gripper_open
                raise RobotError(
                    f"{place} stands at {closed + position / 100.0 * (opened - closed):.2f} rad, outside closed "
                    f"({closed:g}) and open ({opened:g}); move it to both ends by hand, read the angles here, and "
                    "write them to connection.gripper"
                )

    # --- driving ---

    def _drive(self, mode: str) -> None:
        """Switch on what is off, and enter a mode; on failure everything is switched off."""
        port = self._open_port()
        silent = self._wait_for(self._old, _FEEDBACK_S)
        if silent:
            raise RobotError(
                f"{self.name}: no feedback from {names(self._places, silent)}; check their power and the wiring"
            )
        for index, motor in enumerate(port.report()["motors"]):
            if motor["status"] == _ENABLED:
                continue
            if not self._insist(index, "enable"):
                status = port.report()["motors"][index]["status"]
                self._switch_off(must=False)
                raise RobotError(f"{self._places[index]} does not switch on: {status_text(status)}")
        if not port.set_mode(mode):
            self._switch_off(must=False)
            raise RobotError(f"{self.name}: not every motor's pose is known")

    def _switch_off(self, must: bool) -> None:
        port = self._open_port()
        port.set_mode("listen")
        ask = self._insist if must else port.command
        stayed = [index for index in range(len(self._places)) if not ask(index, "disable")]
        if stayed and must:
            raise RobotError(
                f"{self.name}: {names(self._places, stayed)} did not say that they are off; without commands they "
                f"brake by themselves after {self._settings.timeout_s:g} s"
            )

    def _insist(self, index: int, command: str) -> bool:
        port = self._open_port()
        return _insist(lambda: port.command(index, command))

    def _old(self, report: DamiaoReport) -> list[bool]:
        limit_ns = time.monotonic_ns() - round(self._settings.timeout_s * 1e9)
        return [motor["time_ns"] < limit_ns for motor in report["motors"]]

    def _look(self) -> None:
        """Take in what the port has latched since."""
        if self._port is None or self._life_cycle not in (LifeCycle.CONFIGURED, LifeCycle.ACTIVE):
            return
        fault = fault_text(self._port.report(), self._places)
        if fault is not None:
            self._life_cycle, self._fault = LifeCycle.ERROR, fault

    def _wait_for(self, bad: Callable[[DamiaoReport], list[bool]], timeout_s: float) -> list[int]:
        """Wait until nothing is bad; returns the indices of what still is after the timeout."""
        port = self._open_port()
        deadline = time.monotonic() + timeout_s
        while True:
            left = [index for index, is_bad in enumerate(bad(port.report())) if is_bad]
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(_LOOK_S)

    def _open_port(self) -> DamiaoPort:
        if self._port is None:
            raise RobotError(f"{self.name} is not connected")
        return self._port

    def _require(self, *allowed: LifeCycle) -> None:
        self._look()
        require_life_cycle(self.name, self._life_cycle, self._fault, *allowed)


def _insist(ask: Callable[[], bool]) -> bool:
    """Ask a few times, with pauses in which the port's keeper repeats the other motors' targets."""
    for attempt in range(_ATTEMPTS):
        if attempt > 0:
            time.sleep(_PAUSE_S)
        if ask():
            return True
    return False
