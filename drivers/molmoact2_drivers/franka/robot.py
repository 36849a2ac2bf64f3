"""A Franka arm with its gripper as a `molmoact2_drivers.Robot`: seven joints in degrees, the gripper 0 (closed) to 100.

The arm's connection lives in a process of its own (`arm_process`), because libfranka may wait for ever and must be
killable. A thread here carries states and targets between that process and the control loop's mailbox. A mailbox it is,
and no port in C++ on the shared memory, because a state has two sources: the arm and a gripper that answers beside it.
Every state keeps the time at which it came from the wire, so that the loop sees a thread that was kept from running as
what it is: an old state.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.franka.arm_client import ArmClient, ArmSettings
from molmoact2_drivers.franka.arm_limits import ARMS
from molmoact2_drivers.franka.arm_memory import JOINTS, ArmState
from molmoact2_drivers.life_cycle import require_life_cycle
from molmoact2_drivers.protocol import (
    Joint,
    JointUnit,
    LifeCycle,
    Measurement,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)
from molmoact2_edge.errors import InputError, RobotError

if TYPE_CHECKING:
    from molmoact2_edge._core.control import MailboxPort

_POLL_S = 0.002
_GRIPPER_SILENCE_NS = 500_000_000  # a gripper that has said nothing for longer makes the whole state as old
_GRIPPER_PERIOD_NS = 20_000_000
_GRIPPER_SPEED = (
    500.0  # percent/s: beyond each gripper's own, so that no gate makes many small movements out of one
)
_FIRST_STATE_TIMEOUT_S = 3.0
_JOIN_TIMEOUT_S = 5.0


class GripperReading(Protocol):
    """What is read of a gripper."""

    @property
    def position(self) -> float:
        """Percent open."""

    @property
    def time_ns(self) -> int:
        """CLOCK_MONOTONIC of the measurement."""


class Gripper(Protocol):
    """What the arm's driver needs of a gripper; move, stop and state never wait."""

    @property
    def name(self) -> str: ...
    @property
    def fault(self) -> str | None: ...
    def connect(self) -> None: ...
    def activate(self) -> None: ...
    def move(self, percent: float) -> None: ...
    def stop(self) -> None: ...
    def state(self) -> GripperReading: ...
    def recover(self) -> None: ...
    def disconnect(self) -> None: ...


class FrankaRobot:
    """A `molmoact2_drivers.Robot`; see the module.

    Stop policies: HOLD ends the motion, and the arm's own controller holds it. DAMP lets the arm give way against a
    friction of our making; it bears its own weight and does not sink. TORQUE_OFF is what HOLD is: over this interface
    nobody can take the torque from a Franka's joints, and its brakes would catch them.
    """

    def __init__(self, settings: ArmSettings, joint_names: tuple[str, ...], gripper: Gripper) -> None:
        """``joint_names``: the arm's seven, then the gripper's.

        Raises:
            InputError: they are not eight.
        """
        if len(joint_names) != JOINTS + 1:
            raise InputError(
                f"a Franka has {JOINTS} joints and a gripper; the configuration names {len(joint_names)}"
            )
        self._settings = settings
        self._names = joint_names
        self._gripper = gripper
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._port: MailboxPort | None = None
        self._client: ArmClient | None = None
        self._thread: threading.Thread | None = None
        self._running = threading.Event()
        self._lock = threading.Lock()  # of the life cycle and of who writes targets
        self._state: RobotState | None = None
        self._gripper_sent_ns = 0
        self._gripper_wanted: float | None = None  # percent; None: as it is
        self._gripper_percent: float | None = None  # what it was told last
        self._starts = 0

    @property
    def name(self) -> str:
        """The arm and its address."""
        return f"{self._settings.arm} at {self._settings.address}"

    @property
    def capabilities(self) -> RobotCapabilities:
        """Joints with the limits that the path at 1 kHz keeps."""
        limits = ARMS[self._settings.arm]
        joints = [
            Joint(name, JointUnit.DEGREES, *(float(np.degrees(value)) for value in values))
            for name, *values in zip(
                self._names[:JOINTS], limits.position_min, limits.position_max, limits.velocity, strict=True
            )
        ]
        joints.append(Joint(self._names[JOINTS], JointUnit.PERCENT, 0.0, 100.0, _GRIPPER_SPEED))
        return RobotCapabilities(
            tuple(joints),
            command_rate_max_hz=1.0 / _POLL_S,
            measures=frozenset({Measurement.VELOCITY}),
            stop_policies=frozenset(StopPolicy),
        )

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR, with what to do; None otherwise."""
        return self._fault

    @property
    def arm_process_id(self) -> int | None:
        """The process that holds the arm's connection; None where there is none."""
        return None if self._client is None else self._client.pid

    @property
    def success_rate(self) -> float | None:
        """Share of the last 100 commands that reached the arm in time; None before the first state."""
        state = None if self._client is None else self._client.read()
        return None if state is None else state.success_rate

    def statistics(self) -> dict[str, float]:
        """For a run's report: how the arm's commands fared."""
        rate = self.success_rate
        return {"process_starts": self._starts, "command_success_rate": 0.0 if rate is None else rate}

    def connect(self) -> None:
        """Starts the arm's process, connects to arm and gripper, moves nothing. DISCONNECTED -> CONNECTED."""
        from molmoact2_edge._core.control import MailboxPort

        self._require(LifeCycle.DISCONNECTED)
        self._port = MailboxPort(JOINTS + 1)
        self._port.accept(False)
        try:
            self._gripper.connect()
            self._start_arm()
        except RobotError:
            self._halt()
            self._gripper.disconnect()
            raise
        self._life_cycle = LifeCycle.CONNECTED

    def configure(self) -> None:
        """Sets collision thresholds and stiffness, readies the gripper. CONNECTED or CONFIGURED -> CONFIGURED.

        A gripper that must find its ends moves its fingers here, as its own configuration says; the arm does not move.
        """
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
        if self._ask("configure"):
            self._gripper.activate()
            self._change(LifeCycle.CONFIGURED)

    def activate(self) -> None:
        """Follows targets from where the arm is held. CONFIGURED -> ACTIVE."""
        self._require(LifeCycle.CONFIGURED)
        with self._lock:
            assert self._port is not None
            self._port.take_command()
            self._gripper_wanted = self._gripper_percent = None
        if self._ask("follow"):
            self._change(LifeCycle.ACTIVE)

    def port(self) -> MailboxPort:
        """The mailbox that the control thread writes commands to and reads states from."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        assert self._port is not None
        return self._port

    def read_state(self) -> RobotState:
        """The newest state with its own time."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        assert self._state is not None
        return self._state

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Sends targets (8,) once. ACTIVE."""
        wanted = np.array(positions, dtype=np.float64)
        if wanted.shape != (JOINTS + 1,) or not np.isfinite(wanted).all():
            raise InputError(f"targets are eight finite positions {self._names}; got {positions!r}")
        with self._lock:
            self._require(LifeCycle.ACTIVE)
            self._aim(wanted, time.monotonic_ns())

    def stop(self, policy: StopPolicy) -> None:
        """Brakes within the limits, then does what the class says. ACTIVE -> CONFIGURED; in ERROR as far as it goes."""
        request = "damp" if policy is StopPolicy.DAMP else "rest"
        if self._life_cycle is LifeCycle.ERROR and self._client is not None:
            with contextlib.suppress(RobotError):  # an arm in a reflex stands, and takes nothing
                self._client.ask(request)
        if self._life_cycle not in (LifeCycle.ACTIVE, LifeCycle.CONFIGURED):
            return
        with self._lock:
            if self._life_cycle is LifeCycle.ACTIVE:
                self._set(LifeCycle.CONFIGURED)
            if self._port is not None:
                self._port.take_command()
        self._stop_gripper()
        self._ask(request)

    def recover(self) -> None:
        """Clears a reflex, or starts anew what was lost. ERROR -> CONFIGURED.

        Raises:
            RobotError: the cause is still there; the fault stays.
        """
        self._require(LifeCycle.ERROR)
        try:
            self._recover()
        except RobotError as error:
            self._fault = self._fault or f"{error}"
            raise

    def disconnect(self) -> None:
        """Ends everything from any state and does not raise; an arm that moves is braked first."""
        if self._life_cycle is LifeCycle.ACTIVE:
            # The process is ended in any case, and an arm without its client brakes by itself.
            with contextlib.suppress(RobotError):
                self.stop(StopPolicy.HOLD)
        self._halt()
        self._gripper.disconnect()
        self._port = None
        self._state = None
        self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None

    def _recover(self) -> None:
        if self._gripper.fault is not None:
            self._gripper.recover()
        if self._client is None or self._client.lost is not None:
            self._halt()
            self._start_arm()
            fault = self._client.ask("configure") if self._client is not None else None
        else:
            fault = self._client.ask("recover")
        if fault is not None:
            self._fault = fault
            raise RobotError(fault)
        self._wait_for_state()
        if self._port is not None:
            self._port.take_command()
        with self._lock:
            self._fault = None
            self._set(LifeCycle.CONFIGURED)

    def _start_arm(self) -> None:
        client = ArmClient(self._settings)
        self._client = client
        self._starts += 1
        self._state = None
        self._running.set()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._carry, args=(client, started), name="franka-bridge", daemon=True
        )
        self._thread.start()
        started.wait()
        client.wait_ready()
        self._wait_for_state()

    def _wait_for_state(self) -> None:
        give_up = time.monotonic() + _FIRST_STATE_TIMEOUT_S
        while self._state is None:
            if time.monotonic() > give_up:
                raise RobotError(f"{self.name} with {self._gripper.name} gave no state")
            time.sleep(_POLL_S)

    def _halt(self) -> None:
        self._running.clear()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_TIMEOUT_S)
        self._thread = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, request: str) -> bool:
        """Ask the arm's process; False, with the fault noted, when the arm answers with one. Raises RobotError."""
        if self._client is None:
            raise RobotError(f"{self.name} is not connected")
        fault = self._client.ask(request)
        if fault is not None:
            self._break(fault)
            raise RobotError(fault)
        return self._life_cycle is not LifeCycle.ERROR

    def _require(self, *allowed: LifeCycle) -> None:
        require_life_cycle(self.name, self._life_cycle, self._fault, *allowed)

    def _change(self, life_cycle: LifeCycle) -> None:
        with self._lock:
            if self._life_cycle is not LifeCycle.ERROR:
                self._set(life_cycle)

    def _set(self, life_cycle: LifeCycle) -> None:
        """With the lock held. The port refuses commands that nobody would carry out, so that the loop knows of it."""
        self._life_cycle = life_cycle
        if self._port is not None:
            self._port.accept(life_cycle is LifeCycle.ACTIVE)

    def _break(self, fault: str) -> None:
        with self._lock:
            self._fault = fault
            self._set(LifeCycle.ERROR)

    def _carry(self, client: ArmClient, started: threading.Event) -> None:
        """The thread between the arm's process and the loop. The process ends with it."""
        try:
            client.start()
            started.set()
            self._carry_on(client)
        except Exception as error:
            # Whatever it is: nobody must take an old state for a live arm.
            self._break(f"the driver's own thread failed: {type(error).__name__}: {error}; recover")
            client.end()
        finally:
            started.set()

    def _carry_on(self, client: ArmClient) -> None:
        while self._running.is_set():
            faults = client.poll()
            if client.lost is not None:
                faults.append(client.lost)
            if self._gripper.fault is not None:
                faults.append(self._gripper.fault)
            if faults and self._life_cycle not in (LifeCycle.ERROR, LifeCycle.DISCONNECTED):
                self._break("; ".join(faults))
                self._stop_gripper()
            if client.lost is not None:
                return
            self._publish(client.read())
            self._take_command()
            self._move_gripper()
            time.sleep(_POLL_S)

    def _publish(self, state: ArmState | None) -> None:
        known = self._state
        if state is None or self._port is None or self._gripper.fault is not None:
            return
        try:
            gripper = self._gripper.state()
        except RobotError:
            return  # it has none yet
        time_ns = state.time_ns
        if time_ns - gripper.time_ns > _GRIPPER_SILENCE_NS:
            time_ns = gripper.time_ns
        if known is not None and time_ns <= known.time_ns:
            return
        positions = np.append(np.degrees(state.positions), gripper.position)
        velocities = np.append(np.degrees(state.velocities), np.nan)
        self._state = RobotState(positions, time_ns, velocities=velocities)
        self._port.publish_state(positions, time_ns)

    def _take_command(self) -> None:
        assert self._port is not None
        with self._lock:
            command = self._port.take_command()
            if command is not None and self._life_cycle is LifeCycle.ACTIVE and np.isfinite(command[0]).all():
                self._aim(command[0], command[2])

    def _aim(self, positions: npt.NDArray[np.float64], time_ns: int) -> None:
        assert self._client is not None
        self._client.aim(tuple(np.radians(positions[:JOINTS]).tolist()), time_ns)
        self._gripper_wanted = min(max(float(positions[JOINTS]), 0.0), 100.0)

    def _move_gripper(self) -> None:
        """Tell the gripper where it is wanted, as often as it can hear it; the newest is never left out."""
        with self._lock:
            wanted, now = self._gripper_wanted, time.monotonic_ns()
            if wanted is None or self._life_cycle is not LifeCycle.ACTIVE:
                return
            if wanted != self._gripper_percent and now - self._gripper_sent_ns >= _GRIPPER_PERIOD_NS:
                self._gripper_percent, self._gripper_sent_ns = wanted, now
                with contextlib.suppress(RobotError):  # it has a fault, which is told in the next round
                    self._gripper.move(wanted)

    def _stop_gripper(self) -> None:
        # One with a fault takes nothing; the arm must be stopped all the same.
        with contextlib.suppress(RobotError):
            self._gripper.stop()
