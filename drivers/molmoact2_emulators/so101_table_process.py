"""The process of the simulated table: physics in real time, cameras drawn into their files, a judge on a socket."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from molmoact2_edge.errors import MolmoAct2Error, RobotError
from molmoact2_edge.sim import COLOURS, TouchTask, World, parse_instruction
from molmoact2_edge.sim.touch import Outcome
from molmoact2_emulators.so101_exchange import (
    JOINT_COUNT,
    READY,
    STEP_S,
    CameraPlan,
    Commands,
    Exchange,
    Push,
    State,
    TablePlan,
)
from molmoact2_emulators.so101_judge import Judge
from molmoact2_emulators.so101_table_camera import CameraThread

_MAX_CATCH_UP = 25  # steps; beyond it simulated time falls behind instead of stealing the processor
_ANSWER_TIMEOUT_S = 5.0
_FORCE_MAX = 2.94  # newton metres, of the model's servos


class Table:
    """The world in its own process, stepped in real time by the thread that calls `run`."""

    def __init__(self, world: World, exchange: Exchange) -> None:
        self._world = world
        self._exchange = exchange
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._epoch = 0
        self._strength: tuple[tuple[float, float, float], ...] = ()
        self._rest = tuple(float(position) for position in world.positions())
        self._task = TouchTask(COLOURS[0])
        self._heard_epoch = -1
        self.slipped_s = 0.0
        """By how much simulated time has fallen behind."""
        self.commands: Commands | None = None
        """What the servos said last."""
        self._publish()

    def run(self, ended: threading.Event) -> None:
        """Step until the event is set.

        Raises:
            RobotError: the physics diverged.
        """
        step_ns = round(STEP_S * 1e9)
        due = time.monotonic_ns()
        while not ended.is_set():
            late = (time.monotonic_ns() - due) // step_ns
            steps = 1 + int(min(max(late, 0), _MAX_CATCH_UP - 1))
            with self._lock:
                self._step(steps)
            due += steps * step_ns
            now = time.monotonic_ns()
            if now - due > _MAX_CATCH_UP * step_ns:
                self.slipped_s += (now - due) * 1e-9
                due = now
            elif due > now:
                time.sleep((due - now) * 1e-9)

    @contextmanager
    def world(self) -> Iterator[World]:
        """Lend the world while its physics wait. Be brief."""
        with self._lock:
            yield self._world

    def reset(self, seed: int, task: str | None) -> str:
        """Draw a scene, as `runtime.simulation.SimulatedTable.begin` does; returns the instruction.

        Raises:
            InputError: a task that cannot be judged here.
            RobotError: the servos did not take notice.
        """
        wanted = None if task is None else parse_instruction(task)
        rng = np.random.default_rng(seed)
        with self._lock:
            self._world.reset(rng)
            drawn = COLOURS[int(rng.integers(len(COLOURS)))]
            self._task = TouchTask(drawn if wanted is None else wanted)
            self._put_down()
            return self._task.instruction if task is None else task

    def pose(self, positions: Sequence[float]) -> None:
        """Put the arm at joint positions, at rest."""
        with self._lock:
            self._world.set_positions(positions)
            self._put_down()

    def outcome(self) -> tuple[Outcome, float]:
        """Return how the episode stands, and its time."""
        with self._lock:
            return self._task.outcome(self._world), self._world.time

    def _put_down(self) -> None:
        """Wait until the servos know that the arm stands elsewhere. With the lock held."""
        self._epoch += 1
        self._strength = ()
        self._world.set_servo_gains(1.0, 1.0)
        self._rest = tuple(float(position) for position in self._world.positions())
        self._publish()
        epoch = self._epoch
        if not self._answered.wait_for(lambda: self._heard_epoch >= epoch, _ANSWER_TIMEOUT_S):
            raise RobotError(
                f"the servos did not notice within {_ANSWER_TIMEOUT_S:g} s that the arm was moved"
            )

    def _step(self, steps: int) -> None:
        world = self._world
        commands = self._exchange.commands()
        if commands is not None:
            self.commands = commands
            if commands.epoch != self._heard_epoch:
                self._heard_epoch = commands.epoch
                self._answered.notify_all()
        targets = self._rest
        if commands is not None and commands.epoch == self._epoch:
            self._set_strength(commands.pushes)
            targets = tuple(push.set_point for push in commands.pushes)
        world.step(targets, steps * STEP_S)
        self._publish()

    def _set_strength(self, pushes: Sequence[Push]) -> None:
        strength = tuple((push.stiffness, push.damping, push.limit) for push in pushes)
        if strength == self._strength:
            return
        self._strength = strength
        world = self._world
        world.set_servo_gains([push.stiffness for push in pushes], [push.damping for push in pushes])
        for joint, push in enumerate(pushes):
            world.model.actuator_forcerange[joint] = (-_FORCE_MAX * push.limit, _FORCE_MAX * push.limit)

    def _publish(self) -> None:
        world = self._world
        forces = world.data.actuator_force[:JOINT_COUNT]
        self._exchange.put_state(
            State(
                self._epoch,
                tuple(map(float, world.positions())),
                tuple(map(float, world.velocities())),
                tuple(float(force) / _FORCE_MAX for force in forces),
            )
        )


def run(descriptor: int, plan: TablePlan) -> None:
    """Be the table's process until standard input is closed.

    Raises:
        MolmoAct2Error: something is missing, or the physics diverged.
    """
    table = Table(World(plan.seed), Exchange(descriptor))
    ended = threading.Event()
    failures: list[BaseException] = []

    def step() -> None:
        try:
            table.run(ended)
        except RobotError as error:
            failures.append(error)
            ended.set()

    physics = threading.Thread(target=step, name="physics")
    physics.start()
    cameras: list[CameraThread] = []
    judge: Judge | None = None
    try:
        for number, camera in enumerate(plan.cameras):
            cameras.append(CameraThread(table, camera, plan.seed + number, ended))
        for thread in cameras:
            thread.wait_for_first()
        if plan.judge is not None:
            judge = Judge(table, Path(plan.judge))
        print(READY, flush=True)
        threading.Thread(target=_wait_for_eof, args=(ended,), daemon=True).start()
        ended.wait()
    finally:
        ended.set()
        if judge is not None:
            judge.close()
        for thread in cameras:
            thread.close()
        physics.join()
    for failure in failures:
        raise failure


def _wait_for_eof(ended: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.buffer.read()
    ended.set()


def _main() -> int:
    # A terminal's interrupt reaches this process, too; it ends with the one that started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fields = json.loads(sys.argv[2])
    cameras = tuple(CameraPlan(**camera) for camera in fields.pop("cameras"))
    try:
        run(int(sys.argv[1]), TablePlan(cameras=cameras, **fields))
    except MolmoAct2Error as error:
        print(error, flush=True)
        print(f"simulated table: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
