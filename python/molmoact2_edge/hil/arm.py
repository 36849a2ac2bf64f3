"""The arm under test: opened, activated, moved through the control loop and its gate, and left at rest again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from molmoact2_drivers import LifeCycle, Robot, RobotState, StopPolicy
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, GateState, JointLimits, TickRecord
from molmoact2_edge.errors import RobotError
from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.hil.motion import Feeder, Motion

Poses = npt.NDArray[np.float64]

_FIRST_POSE_S = 3.0
_POLL_S = 0.002
_AGAIN_S = 0.05
_CHUNK_RATE_HZ = 50.0
_RECORDS = 20_000


class ArmUnderTest:
    """One robot and, where it is emulated, the processes that are its wire's other end."""

    def __init__(self, robot: Robot, config: RobotConfig, emulators: Sequence[EmulatorProcess] = ()) -> None:
        """``config`` has limits within the robot's reach; the robot is CONFIGURED."""
        self.robot = robot
        self.config = config
        self.emulators = list(emulators)

    @property
    def emulated(self) -> bool:
        return bool(self.emulators)

    @property
    def period_ns(self) -> int:
        return round(1e9 / self.config.loop.rate_hz)

    def warm(self) -> bool:
        """Whether a joint is warmer than its warning level, so that a run would be held."""
        levels = self.config.watchdog_settings().temperature
        measured = self.robot.read_state().temperatures
        return levels is not None and measured is not None and bool((measured > np.array(levels.warn)).any())

    def loop(
        self,
        rate_hz: float | None = None,
        limits: JointLimits | None = None,
        cameras: tuple[str, ...] = (),
    ) -> ControlLoop:
        """A loop on the robot's port, with the configuration's watchdogs but those of a policy."""
        self.recover()
        loop = self.config.loop
        rate = loop.rate_hz if rate_hz is None else rate_hz
        watchdogs = replace(self.config.watchdog_settings(), cameras=cameras, chunk_age_max_s=None)
        return ControlLoop(
            self.robot.port(),
            self.config.limits() if limits is None else limits,
            rate_hz=rate,
            chunk_rate_hz=min(_CHUNK_RATE_HZ, rate),
            mode="async",
            lost_writes_max=loop.lost_writes_max,
            silence_hold_s=max(loop.silence_hold_s, 2.0 / rate),
            silence_fault_s=max(loop.silence_fault_s, 2.0 / rate),
            watchdogs=watchdogs,
            start_speed=loop.start_speed,
            start_distance_max=self.config.start_distances(),
            telemetry_capacity=_RECORDS,
            fifo_priority=loop.fifo_priority,
            lock_memory=loop.lock_memory,
            cpus=loop.cpus,
        )

    @contextmanager
    def running(self, loop: ControlLoop, motion: Motion | None = None) -> Iterator[None]:
        """Activate, run the loop on a motion (none: hold), and leave the arm held at rest, whatever happens."""
        self.activate()
        try:
            loop.start()
            if motion is None:
                yield
            else:
                with Feeder(loop, motion):
                    yield
        finally:
            loop.stop()
            self.hold()

    def recover(self) -> None:
        """Bring a robot back that a check has left in ERROR."""
        if self.robot.life_cycle is LifeCycle.ERROR:
            self.robot.recover()

    def activate(self) -> None:
        """Bring the robot from wherever it is to ACTIVE."""
        self.recover()
        if self.robot.life_cycle is LifeCycle.CONFIGURED:
            self.robot.activate()

    def hold(self) -> None:
        """Leave the motors holding; a robot that is lost cannot be told."""
        with contextlib.suppress(RobotError):
            if self.robot.life_cycle is LifeCycle.ACTIVE:
                self.robot.stop(StopPolicy.HOLD)

    def state(self) -> RobotState:
        """A measurement; a robot that has just been configured is given a moment to make its first."""
        self.recover()
        give_up = time.monotonic() + _FIRST_POSE_S
        while True:
            try:
                return self.robot.read_state()
            except RobotError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(_AGAIN_S)

    def pose(self) -> Poses:
        """The measured pose (joints,)."""
        return np.asarray(self.state().positions, dtype=np.float64)


def wait_for(loop: ControlLoop, state: GateState, timeout_s: float) -> TickRecord:
    """Wait until a tick of the present run has a state and has executed a step, where the state is running.

    Raises:
        RobotError: none had it in time; says where the loop stands instead.
    """
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        last = loop.last_record()
        reached = last is not None and last["run"] == loop.run and last["state"] == state
        if last is not None and reached and (state is not GateState.RUNNING or last["followed"]):
            return last
        time.sleep(_POLL_S)
    last = loop.last_record()
    stands = "no tick was done" if last is None else f"it is {last['state']} ({last['reason']})"
    raise RobotError(f"the loop was not {state} within {timeout_s:g} s; {stands}")
