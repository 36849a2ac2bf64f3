"""A robot, cameras and policies that need no simulator, for tests of the runtime."""

from __future__ import annotations

import abc
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molmoact2_drivers import (
    Frame,
    Joint,
    JointUnit,
    Measurement,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.control import MailboxPort
from molmoact2_edge.errors import RobotError
from molmoact2_edge.guide import ActionGuide

JOINTS = 6
WARM_UP_CALLS = 2


@dataclass(frozen=True)
class Judged:
    done: bool
    success: bool
    reason: str


@dataclass(frozen=True)
class Predicted:
    actions: np.ndarray
    valid: bool = True
    reason: str = ""
    timing: dict[str, float] = field(default_factory=lambda: {"total": 0.001})


class FollowingArm:
    """Does what it is told; a thread publishes its pose every few milliseconds."""

    name = "following arm"
    fault: str | None = None
    capabilities = RobotCapabilities(
        tuple(Joint(f"joint_{number}", JointUnit.DEGREES, -180.0, 180.0, 300.0) for number in range(JOINTS)),
        command_rate_max_hz=250.0,
        measures=frozenset({Measurement.TEMPERATURE, Measurement.CURRENT}),
        stop_policies=frozenset(StopPolicy),
    )

    def __init__(self) -> None:
        self._port = MailboxPort(JOINTS)
        self.pose = np.zeros(JOINTS)
        self.silent = False
        self.temperatures: np.ndarray | None = None
        self.currents: np.ndarray | None = None
        self.stops: list[StopPolicy] = []
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self) -> None:
        self._running.set()
        self._thread.start()

    def close(self) -> None:
        self._running.clear()
        self._thread.join(5.0)

    def port(self) -> MailboxPort:
        return self._port

    def stop(self, policy: StopPolicy) -> None:
        self.stops.append(policy)

    def place(self, pose: np.ndarray) -> None:
        """Put the arm somewhere; a command that was not taken yet is dropped."""
        with self._lock:
            self._port.take_command()
            self.pose = pose

    def read_state(self) -> RobotState:
        return RobotState(self.pose, time.monotonic_ns())

    def _run(self) -> None:
        while self._running.is_set():
            with self._lock:
                command = self._port.take_command()
                if command is not None:
                    self.pose = command[0]
                if not self.silent:
                    self._port.publish_state(self.pose, time.monotonic_ns(), self.temperatures, self.currents)
            time.sleep(0.004)


class StillCamera:
    """The same grey image, exposed anew at every look."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen_ns: int | None = None
        self.broken = False

    def latest(self) -> Frame:
        if self.broken:
            raise RobotError(f"camera {self.name} was unplugged")
        exposed = self.frozen_ns or time.monotonic_ns()
        return Frame(np.full((24, 32, 3), 90, np.uint8), exposed, exposed // 1_000_000)


class Bench:
    """A scenario that judges by the arm's first joint: beyond 5 degrees is a success."""

    def __init__(self, goal: float = 5.0) -> None:
        self.robot: Any = FollowingArm()
        self.cameras: Any = {"front": StillCamera("front"), "wrist": StillCamera("wrist")}
        self.begun: list[tuple[int, str | None]] = []
        self.closed = False
        self.goal = goal
        self.judged = True
        self.config = configuration()

    def open(self) -> None:
        self.robot.open()

    def begin(self, seed: int, task: str | None) -> str:
        self.begun.append((seed, task))
        self.robot.place(np.zeros(JOINTS))
        return task or f"lift joint {seed}"

    def outcome(self) -> Judged:
        reached = bool(self.robot.pose[0] >= self.goal)
        return Judged(reached, reached, "lifted" if reached else "under way")

    def facts(self) -> dict[str, Any]:
        return {"bench": True}

    def close(self) -> None:
        self.closed = True
        self.robot.close()


class AskedPolicy(abc.ABC):
    """Remembers what it was asked; who inherits says which actions it has, and may spoil the answer."""

    def __init__(self) -> None:
        self.seen: Any = None  # the last images
        self.tasks: list[str] = []
        self.seeds: list[int | None] = []
        self.guides: list[ActionGuide | None] = []

    @property
    def calls(self) -> int:
        return len(self.tasks)

    def predict(
        self,
        images: Any,
        task: str,
        state: Any,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
        guide: ActionGuide | None = None,
    ) -> Predicted:
        assert convention == "none"
        assert np.shape(state) == (JOINTS,)
        self.seen = images
        self.tasks.append(task)
        self.seeds.append(seed)
        self.guides.append(guide)
        return self.answer(self.actions(task, np.asarray(state, np.float32)))

    @abc.abstractmethod
    def actions(self, task: str, state: np.ndarray) -> np.ndarray: ...

    def answer(self, rows: np.ndarray) -> Predicted:
        return Predicted(rows)


class Lifting(AskedPolicy):
    """Lifts the first joint by 10 degrees from where it is."""

    def actions(self, task: str, state: np.ndarray) -> np.ndarray:
        assert [image.shape for image in self.seen] == [(24, 32, 3)] * 2
        rows = np.tile(state, (10, 1))
        rows[:, 0] += np.linspace(1.0, 10.0, 10, dtype=np.float32)
        return rows


class Expert(AskedPolicy):
    """Looks at a simulated world instead of the images."""

    def __init__(self, scenario: Any) -> None:
        super().__init__()
        self.scenario = scenario

    def actions(self, task: str, state: np.ndarray) -> np.ndarray:
        from molmoact2_edge.sim import expert_chunk, parse_instruction

        assert [image.shape for image in self.seen] == [(112, 112, 3)] * 2
        with self.scenario.robot.world() as world:
            rows = expert_chunk(world, parse_instruction(task), horizon=10, rate_hz=10.0)
        return rows.astype(np.float32)


def spoiled(how: str, rows: np.ndarray) -> Predicted:
    """What a broken policy makes of its actions: it ``raises``, or they are ``not finite``, ``narrow``, ``invalid``."""
    if how == "raises":
        raise ArithmeticError("the device fell off")
    if how == "not finite":
        return Predicted(np.full_like(rows, np.nan))
    if how == "narrow":
        return Predicted(rows[:, :3])
    return Predicted(rows[:0], valid=False, reason="does not decode")


class Failing(Lifting):
    """Works for the warm-up, then raises or gives invalid predictions."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def answer(self, rows: np.ndarray) -> Predicted:
        return Predicted(rows) if self.calls <= WARM_UP_CALLS else spoiled(self.how, rows)


def configuration() -> RobotConfig:
    return load_robot("sim-so101")
