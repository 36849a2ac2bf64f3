"""The simulated SO-101 and its cameras in real time, behind the protocols that real devices implement."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.life_cycle import require_life_cycle
from molmoact2_drivers.newest_frame import NewestFrameCamera
from molmoact2_drivers.protocol import (
    CameraCapabilities,
    Frame,
    Joint,
    JointUnit,
    LifeCycle,
    Measurement,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim.rendering import OffscreenRenderer
from molmoact2_edge.sim.scene import JOINT_NAMES, Scene
from molmoact2_edge.sim.world import World

if TYPE_CHECKING:
    from molmoact2_edge._core.control import MailboxPort

_MAX_CATCH_UP = 12  # periods; beyond it simulated time falls behind instead of stealing the processor
_FIRST_FRAME_TIMEOUT_S = 20.0  # software GL compiles its shaders for the first frame
_JOIN_TIMEOUT_S = 5.0
_SERVO_SPEED = 300.0  # degrees/s: an STS3215 at 7.4 V does about 50 turns a minute


class SimRobot:
    """A `molmoact2_drivers.Robot` whose motors and table are a World, stepped by a thread that keeps to real time.

    Whoever needs the world while it runs (to reset it, or to judge an episode) takes it through `world()`.
    """

    def __init__(self, world: World, period_s: float = 0.008) -> None:
        """`period_s` is how often commands are taken and states published; 4 to 10 ms.

        Raises:
            InputError: `period_s` is out of that range.
        """
        if not 0.004 <= period_s <= 0.010:
            raise InputError(f"period_s is 0.004 to 0.010 s, got {period_s}")
        self._world = world
        self._period_steps = max(1, round(period_s / world.timestep))
        self._lock = threading.Lock()
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._port: MailboxPort | None = None
        self._thread: threading.Thread | None = None
        self._running = threading.Event()
        self._target = world.positions()
        self._state = self._measure()
        self._slipped_s = 0.0

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "simulated so101"

    @property
    def capabilities(self) -> RobotCapabilities:
        """The SO-101's joints and limits, as the servos enforce them."""
        joints = tuple(
            Joint(
                name,
                JointUnit.PERCENT if name == "gripper" else JointUnit.DEGREES,
                float(low),
                float(high),
                _SERVO_SPEED,
            )
            for name, (low, high) in zip(JOINT_NAMES, self._world.limits, strict=True)
        )
        return RobotCapabilities(
            joints,
            command_rate_max_hz=1.0 / self.period_s,
            measures=frozenset({Measurement.VELOCITY}),
            stop_policies=frozenset(StopPolicy),
        )

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR; None otherwise."""
        return self._fault

    @property
    def period_s(self) -> float:
        """Seconds between two published states."""
        return self._period_steps * self._world.timestep

    @property
    def slipped_s(self) -> float:
        """Seconds by which simulated time has fallen behind real time since `connect`: 0 on a machine that keeps up."""
        return self._slipped_s

    def connect(self) -> None:
        """Starts the physics thread. DISCONNECTED -> CONNECTED."""
        from molmoact2_edge._core.control import MailboxPort

        self._require(LifeCycle.DISCONNECTED)
        self._port = MailboxPort(len(JOINT_NAMES))
        self._slipped_s = 0.0
        with self._lock:
            self._rest()
        self._running.set()
        self._life_cycle = LifeCycle.CONNECTED
        self._begin()

    def configure(self) -> None:
        """Nothing to set: CONNECTED or CONFIGURED -> CONFIGURED."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
        self._life_cycle = LifeCycle.CONFIGURED

    def activate(self) -> None:
        """Holds the measured position and follows targets from then on. CONFIGURED -> ACTIVE."""
        self._require(LifeCycle.CONFIGURED)
        with self._lock:
            self._rest()
            self._life_cycle = LifeCycle.ACTIVE

    def port(self) -> MailboxPort:
        """The mailbox that the control thread writes commands to and reads states from."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        assert self._port is not None
        return self._port

    def read_state(self) -> RobotState:
        """The state that the physics thread published last."""
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        return self._state

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Sets the servos' goal positions: (6,) finite. ACTIVE."""
        self._require(LifeCycle.ACTIVE)
        wanted = np.array(positions, dtype=np.float64)
        if wanted.shape != (len(JOINT_NAMES),) or not np.isfinite(wanted).all():
            raise InputError(f"targets are six finite joint positions {JOINT_NAMES}; got {positions!r}")
        with self._lock:
            self._target = wanted

    def stop(self, policy: StopPolicy) -> None:
        """Ends motion. ACTIVE -> CONFIGURED; in CONFIGURED it changes what the motors do."""
        if self._life_cycle not in (LifeCycle.ACTIVE, LifeCycle.CONFIGURED):
            return
        with self._lock:
            self._rest()
            if policy is not StopPolicy.HOLD:
                self._world.set_servo_gains(stiffness=0.0, damping=float(policy is StopPolicy.DAMP))
            self._life_cycle = LifeCycle.CONFIGURED

    def recover(self) -> None:
        """Draws a new scene after the physics diverged. ERROR -> CONFIGURED."""
        self._require(LifeCycle.ERROR)
        self._halt()
        with self._lock:
            self._world.reset()
        self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None
        self.connect()
        self.configure()

    def disconnect(self) -> None:
        """Stops the physics thread from any state."""
        self._halt()
        self._port = None
        self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None

    @contextmanager
    def world(self) -> Iterator[World]:
        """The world, with the physics thread waiting: `with robot.world() as world: task.outcome(world)`. Be brief."""
        with self._lock:
            yield self._world

    def reset(self, rng: np.random.Generator | None = None) -> Scene:
        """Draws a new scene and rests the arm at its start; commands written before are dropped.

        A control loop that still runs would drive the arm back: stop or rebase it first. Frames of the old scene are
        told by a time stamp earlier than this call's return.
        """
        with self._lock:
            scene = self._world.reset(rng)
            self._rest()
            self._publish()
        return scene

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="sim-physics", daemon=True)
        self._thread.start()

    def _now_ns(self) -> int:
        return time.monotonic_ns()

    def _require(self, *allowed: LifeCycle) -> None:
        require_life_cycle(self.name, self._life_cycle, self._fault, *allowed)

    def _rest(self) -> None:
        """Makes the measured position the target, with full torque, and forgets pending commands."""
        if self._port is not None:
            self._port.take_command()
        self._world.set_servo_gains(stiffness=1.0, damping=1.0)
        self._target = self._world.positions()

    def _measure(self) -> RobotState:
        return RobotState(self._world.positions(), self._now_ns(), velocities=self._world.velocities())

    def _publish(self) -> None:
        self._state = self._measure()
        if self._port is not None:
            self._port.publish_state(self._state.positions, self._state.time_ns)

    def _halt(self) -> None:
        self._running.clear()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_TIMEOUT_S)
        self._thread = None

    def _run(self) -> None:
        period_ns = round(self.period_s * 1e9)
        due = time.monotonic_ns()
        try:
            while self._running.is_set():
                late = (time.monotonic_ns() - due) // period_ns
                periods = 1 + int(min(max(late, 0), _MAX_CATCH_UP - 1))
                with self._lock:
                    self._step(periods)
                due += periods * period_ns
                now = time.monotonic_ns()
                if now - due > _MAX_CATCH_UP * period_ns:
                    self._slipped_s += (now - due) * 1e-9
                    due = now
                elif due > now:
                    time.sleep((due - now) * 1e-9)
        except RobotError as error:
            self._fault = f"{error}"
            self._life_cycle = LifeCycle.ERROR

    def _step(self, periods: int) -> None:
        assert self._port is not None
        command = self._port.take_command()
        if command is not None and self._life_cycle is LifeCycle.ACTIVE and np.isfinite(command[0]).all():
            self._target = command[0]
        self._world.step(self._target, periods * self.period_s)
        self._publish()


class SimCamera(NewestFrameCamera):
    """A `molmoact2_drivers.Camera` that draws a SimRobot's world, in a thread with a GL context of its own."""

    def __init__(
        self, robot: SimRobot, name: str, image_size: tuple[int, int] = (112, 112), rate_hz: float = 30.0
    ) -> None:
        """`image_size` is (height, width) in pixels; `rate_hz` the frames drawn a second.

        Raises:
            InputError: unknown camera, or a rate that is not above 0 and at most 100.
        """
        if not 0.0 < rate_hz <= 100.0:
            raise InputError(f"rate_hz is above 0 and at most 100, got {rate_hz}")
        super().__init__(name)
        self._robot = robot
        with robot.world() as world:
            self._camera_id = world.camera_id(name)
        self._image_size = image_size
        self._rate_hz = rate_hz

    @property
    def capabilities(self) -> CameraCapabilities:
        """Size and rate."""
        return CameraCapabilities(*self._image_size, self._rate_hz)

    def connect(self) -> None:
        """Starts drawing and waits for the first frame.

        Raises:
            RobotError: no GL library works, or it is connected already.
        """
        self._require_disconnected()
        self._begin(self._run, _FIRST_FRAME_TIMEOUT_S)

    def _run(self) -> None:
        renderer: OffscreenRenderer | None = None
        try:
            with self._robot.world() as world:
                model = world.model
            # Making a context takes a tenth of a second, for which the physics must not wait.
            renderer = OffscreenRenderer(model, self._image_size)
            self._draw(renderer)
        except RobotError as error:
            self._fail(f"{error}")
        finally:
            if renderer is not None:
                renderer.close()

    def _draw(self, renderer: OffscreenRenderer) -> None:
        period_ns = round(1e9 / self._rate_hz)
        due = time.monotonic_ns()
        sequence = 0
        while not self._ending.is_set():
            with self._robot.world() as world:
                world.refresh_poses()
                renderer.capture(world.data, self._camera_id)
                exposed_ns = time.monotonic_ns()
            image = renderer.draw()
            image.flags.writeable = False
            self._show(Frame(image, exposed_ns, sequence))
            now = time.monotonic_ns()
            # Deadlines that have passed are skipped, and seen as a gap in the sequence numbers.
            elapsed = max(1, (now - due) // period_ns + 1)
            due += elapsed * period_ns
            sequence += elapsed
            self._ending.wait((due - now) * 1e-9)
