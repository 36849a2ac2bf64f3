"""A camera of the simulated table: a thread that draws it into the file that camera clients read."""

from __future__ import annotations

import random
import threading
import time
from contextlib import AbstractContextManager
from typing import Protocol

from molmoact2_edge.errors import RobotError
from molmoact2_edge.sim import World
from molmoact2_edge.sim.rendering import OffscreenRenderer
from molmoact2_emulators.camera_frames import FrameWriter
from molmoact2_emulators.so101_exchange import CameraPlan, Commands

_FIRST_FRAME_TIMEOUT_S = 30.0


class Drawn(Protocol):
    """The table, as its cameras need it."""

    @property
    def commands(self) -> Commands | None:
        """What the servos said last, with what is wrong with the cameras."""

    def world(self) -> AbstractContextManager[World]:
        """Lend the world while its physics wait."""


class CameraThread:
    """Draws one camera of the table into its file until the event is set."""

    def __init__(self, table: Drawn, plan: CameraPlan, seed: int, ended: threading.Event) -> None:
        self._table = table
        self._plan = plan
        self._random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self._ended = ended
        self._drawn = threading.Event()
        self._error: RobotError | None = None
        with table.world() as world:
            self._camera_id = world.camera_id(plan.role)
        self._writer = FrameWriter(
            plan.path, plan.width, plan.height, plan.rate_hz, name=f"Emulated {plan.role} camera"
        )
        self._thread = threading.Thread(target=self._run, name=f"camera-{plan.role}")
        self._thread.start()

    def wait_for_first(self) -> None:
        """Return once a picture is there.

        Raises:
            RobotError: there is none, and why.
        """
        self._drawn.wait(_FIRST_FRAME_TIMEOUT_S)
        if self._error is not None:
            raise self._error
        if not self._drawn.is_set():
            raise RobotError(f"camera {self._plan.role} drew nothing within {_FIRST_FRAME_TIMEOUT_S:g} s")

    def close(self) -> None:
        """Wait for the thread, which sees the event, and remove the file."""
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        renderer: OffscreenRenderer | None = None
        try:
            with self._table.world() as world:
                model = world.model
            # Making a context takes a tenth of a second, for which the physics must not wait.
            renderer = OffscreenRenderer(model, (self._plan.height, self._plan.width))
            self._draw(renderer)
        except RobotError as error:
            self._error = error
            self._drawn.set()
        finally:
            if renderer is not None:
                renderer.close()

    def _draw(self, renderer: OffscreenRenderer) -> None:
        period_ns = round(1e9 / self._plan.rate_hz)
        due = time.monotonic_ns()
        while not self._ended.is_set():
            commands = self._table.commands
            if commands is not None and self._random.random() < commands.drop_probability:
                self._writer.skip()
            elif commands is None or not commands.stalled:
                with self._table.world() as world:
                    world.refresh_poses()
                    renderer.capture(world.data, self._camera_id)
                    exposed_ns = time.monotonic_ns()
                self._writer.write(renderer.draw(), exposed_ns)
                self._drawn.set()
            due += period_ns
            now = time.monotonic_ns()
            while due < now:
                # A picture that was not drawn in time is one that the camera lost.
                self._writer.skip()
                due += period_ns
            self._ended.wait((due - now) * 1e-9)
