"""The simulated SO-101 and its cameras in simulated time: no threads; who holds the clock says when what happens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmoact2_drivers.protocol import CameraCapabilities, Frame, LifeCycle
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim.rendering import OffscreenRenderer
from molmoact2_edge.sim.robot import SimRobot
from molmoact2_edge.sim.world import World

_BEGIN_NS = 1_000_000_000  # the control loop takes 0 for "never"


@dataclass
class SimulatedClock:
    """The one time of a run: physics, cameras, policy and control loop all refer to it."""

    now_ns: int = _BEGIN_NS


class SteppedRobot(SimRobot):
    """The same arm; a period passes when :meth:`step` is called."""

    def __init__(self, world: World, clock: SimulatedClock, period_s: float = 0.008) -> None:
        """``period_s``: see :class:`.SimRobot`."""
        self._clock = clock
        super().__init__(world, period_s)

    def step(self) -> None:
        """Let the period that ends now pass, publish the state, and take the command for the period that begins.

        Raises:
            RobotError: it is not connected. When the physics diverged it is in ERROR afterwards, and steps no more.
        """
        if self._life_cycle is LifeCycle.ERROR:
            return
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        assert self._port is not None
        try:
            self._world.step(self._target, self.period_s)
        except RobotError as error:
            self._fault = f"{error}"
            self._life_cycle = LifeCycle.ERROR
            return
        self._publish()
        command = self._port.take_command()
        if command is not None and self._life_cycle is LifeCycle.ACTIVE and np.isfinite(command[0]).all():
            self._target = command[0]

    def _begin(self) -> None:
        pass

    def _now_ns(self) -> int:
        return self._clock.now_ns


class SteppedCamera:
    """A `molmoact2_drivers.Camera` that sees what :meth:`expose` found. Drawn is only what somebody looks at.

    GL contexts belong to threads: connect it, use it and disconnect it in one.
    """

    def __init__(
        self,
        robot: SteppedRobot,
        clock: SimulatedClock,
        name: str,
        image_size: tuple[int, int] = (112, 112),
        rate_hz: float = 30.0,
    ) -> None:
        """``image_size`` is (height, width) in pixels; ``rate_hz`` how often its owner means to expose it.

        Raises:
            InputError: unknown camera, or a rate that is not above 0 and at most 1000.
        """
        if not 0.0 < rate_hz <= 1000.0:
            raise InputError(f"rate_hz is above 0 and at most 1000, got {rate_hz}")
        self._robot = robot
        self._clock = clock
        self._name = name
        with robot.world() as world:
            self._camera_id = world.camera_id(name)
        self._capabilities = CameraCapabilities(*image_size, rate_hz)
        self._renderer: OffscreenRenderer | None = None
        self._exposed_ns = 0
        self._sequence = -1
        self._frame: Frame | None = None

    @property
    def name(self) -> str:
        """Its role: "front" or "wrist"."""
        return self._name

    @property
    def capabilities(self) -> CameraCapabilities:
        """Size and rate."""
        return self._capabilities

    @property
    def life_cycle(self) -> LifeCycle:
        """DISCONNECTED or ACTIVE."""
        return LifeCycle.DISCONNECTED if self._renderer is None else LifeCycle.ACTIVE

    @property
    def fault(self) -> str | None:
        """None: it has no thread that could fail."""
        return None

    @property
    def exposed_ns(self) -> int:
        """When the frame that :meth:`latest` gives was exposed."""
        return self._exposed_ns

    def connect(self) -> None:
        """Make the renderer and expose a first frame.

        Raises:
            RobotError: no GL library works, or it is connected already.
        """
        if self._renderer is not None:
            raise RobotError(f"camera {self._name} is active; disconnect it first")
        with self._robot.world() as world:
            model = world.model
        height, width = self._capabilities.height, self._capabilities.width
        self._renderer = OffscreenRenderer(model, (height, width))
        self.expose()

    def expose(self) -> None:
        """Keep what it sees now."""
        renderer = self._active()
        with self._robot.world() as world:
            world.refresh_poses()
            renderer.capture(world.data, self._camera_id)
        self._exposed_ns = self._clock.now_ns
        self._sequence += 1
        self._frame = None

    def latest(self) -> Frame:
        """The frame exposed last."""
        renderer = self._active()
        if self._frame is None:
            image = renderer.draw()
            image.flags.writeable = False
            self._frame = Frame(image, self._exposed_ns, self._sequence)
        return self._frame

    def wait_newer(self, sequence: int, timeout_s: float) -> Frame:
        """The frame exposed last, if it is newer; time does not pass while one waits here."""
        frame = self.latest()
        if frame.sequence <= sequence:
            raise RobotError(
                f"camera {self._name} exposed no frame after {sequence}; simulated time stands still"
            )
        return frame

    def disconnect(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _active(self) -> OffscreenRenderer:
        if self._renderer is None:
            raise RobotError(f"camera {self._name} is disconnected; connect it first")
        return self._renderer
