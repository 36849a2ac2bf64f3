"""The seam between chunks where inference is slow: 30 Hz, chunks of 30, 0.7 s for the first call and 0.3 s after it.

The policy is a flow that changes its mind: at each call it draws one of two ways to the goal, as sampling does.
``async`` takes over the new chunk as it is. ``rtc`` lets the same flow in-paint it from what the loop says it will
execute meanwhile, by the formula of the model's own flow loop. Time is simulated; trajectories are written as CSV.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from molmoact2_edge.config import RealTimeChunkingConfig
from molmoact2_edge.control import ControlLoop, JointLimits, MailboxPort, Observation
from molmoact2_edge.runtime.realtime_chunking import CallDelay, ChunkContinuation

RATE_HZ = 30.0
PERIOD_NS = round(1e9 / RATE_HZ)
HORIZON = 30
FIRST_S, STEADY_S = 0.7, 0.3
FLOW_STEPS = 10
SECONDS = 8.0
VELOCITY, ACCELERATION = 90.0, 2000.0
COLUMNS = ("time_s", "step", "chunk", "action", "target", "command", "state", "reason")


def flow(
    goal: np.ndarray, noise: np.ndarray, guide: np.ndarray | None, weights: np.ndarray | None
) -> np.ndarray:
    """Integrate from ``noise`` to ``goal`` (rows, 1) in Euler steps; a guide pulls its rows as in the model."""
    x = noise.copy()
    for k in range(FLOW_STEPS):
        t = k / FLOW_STEPS
        velocity = (goal - x) / (1.0 - t)
        if guide is not None and weights is not None and len(guide):
            rows = len(guide)
            towards = (guide - x[:rows]) / (1.0 - t)
            velocity[:rows] += weights[:, None] * (towards - velocity[:rows])
        x = x + velocity / FLOW_STEPS
    return x


@dataclass
class Undecided:
    """Swings along a sine; each call draws whether it passes above or below it."""

    rng: np.random.Generator

    def chunk(
        self,
        step: int,
        measured: np.ndarray,
        guide: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        times = (step + np.arange(HORIZON)) / RATE_HZ
        side = self.rng.choice([-4.0, 4.0])
        goal = 15.0 * np.sin(2.0 * np.pi * times / 5.0) + side * (1.0 - np.exp(-np.arange(HORIZON) / 6.0))
        goal += (measured[0] - goal[0]) * np.exp(-np.arange(HORIZON) / 3.0)  # from where the arm is
        return flow(goal[:, None], self.rng.normal(size=(HORIZON, 1)), guide, weights)


def play(mode: str, seed: int) -> list[dict[str, float | int | str]]:
    """Run the loop in simulated time with a policy that looks again as soon as its chunk is handed over."""
    row = np.ones(1)
    port = MailboxPort(1)
    loop = ControlLoop(
        port,
        JointLimits(-90 * row, 90 * row, VELOCITY * row, ACCELERATION * row, 30 * row),
        rate_hz=RATE_HZ,
        mode=mode,
        frozen_tolerance=1e-6,
        start_distance_max=60 * row,
    )
    policy = Undecided(np.random.default_rng(seed))
    delay = CallDelay(0.9)
    continuation = ChunkContinuation(
        RealTimeChunkingConfig(delay_quantile=0.9, mask="exponential", mask_s=0.4, tolerance=1.0),
        loop_rate_hz=RATE_HZ,
        chunk_rate_hz=RATE_HZ,
        first_action_due=0,
        delay=delay,
    )
    now = 1_000_000_000
    loop.begin_stepped(now)
    pose = np.zeros(1)
    pending: tuple[int, np.ndarray, Observation, int] | None = None
    calls, rows = 0, []
    for _ in range(round(SECONDS * RATE_HZ)):
        now += PERIOD_NS
        port.publish_state(pose, now)
        if pending is not None and now >= pending[0]:
            loop.push(pending[1], pending[2], frozen_rows=pending[3])
            delay.add((now - pending[2].time_ns) * 1e-9)
            pending = None
        loop.tick(now)
        command = port.take_command()
        assert command is not None
        pose = command[0]
        if pending is None:
            observation = loop.observation_at(now)
            assert observation is not None
            guide = weights = None
            frozen = 0
            planned = loop.planned(observation, HORIZON) if mode == "rtc" else np.empty((0, 1))
            if len(planned):
                guided = continuation.guide(planned)
                guide, weights, frozen = guided.actions, guided.weights, int(np.sum(guided.weights == 1.0))
            chunk = policy.chunk(observation.step, observation.measured, guide, weights)
            seconds = FIRST_S if calls == 0 else STEADY_S
            pending = (now + round(seconds * 1e9), chunk, observation, frozen)
            calls += 1
        record = loop.last_record()
        assert record is not None
        rows.append(
            {
                "time_s": now * 1e-9 - 1.0,
                "step": record["step"],
                "followed": int(record["followed"]),
                "chunk": record["chunk"],
                "action": record["action"],
                "target": float(record["target"][0]),
                "command": float(record["command"][0]),
                "state": record["state"],
                "reason": record["reason"],
                "frozen_error": record["frozen_error"],
                "unfrozen_steps": record["unfrozen_steps"],
            }
        )
    statistics = loop.statistics()
    rows[-1]["not_continuing"] = statistics["chunks_not_continuing"]
    return rows


def column(rows: list[dict[str, float | int | str]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def seam_acceleration(rows: list[dict[str, float | int | str]]) -> float:
    """The largest second difference of executed targets across a change of chunk, in units/s^2."""
    executed = [row for row in rows if row["followed"]]
    targets, chunks = column(executed, "target"), column(executed, "chunk")
    second = np.abs(np.diff(targets, 2)) * RATE_HZ**2
    switches = np.flatnonzero(np.diff(chunks) > 0) + 1  # index of a chunk's first executed target
    across = [second[max(0, i - 2) : i + 1].max() for i in switches if 2 <= i < len(targets) - 1]
    assert len(across) >= 10
    return float(np.max(across))


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trajectories go: MOLMOACT2_ARTEFACTS, or a temporary directory."""
    named = os.environ.get("MOLMOACT2_ARTEFACTS")
    path = tmp_path_factory.mktemp("splicing") if named is None else Path(named)
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("mode", ["async", "rtc"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_slow_first_call_skips_no_action_and_no_seam_breaks_the_velocity_limit(
    mode: str, seed: int, artefacts: Path
) -> None:
    rows = play(mode, seed)
    with (artefacts / f"splicing-{mode}-{seed}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    # Every step once, in order: from standstill nothing is skipped, however long the first call took.
    followed, steps = column(rows, "followed"), column(rows, "step")
    assert (np.diff(np.concatenate([[0], steps])) == followed).all()
    first = int(np.argmax(followed))
    assert rows[first]["action"] == 0.0
    assert first >= round(FIRST_S * RATE_HZ)
    # Once it moves, it goes on to the end: inference of 0.3 s never starves a chunk of 1 s.
    assert followed[first:].all()
    executed = column(rows, "action")[first:]
    chunk = column(rows, "chunk")[first:]
    same = np.diff(chunk) == 0
    assert (np.diff(executed)[same] == 1.0).all()
    velocity = np.diff(column(rows, "command")) * RATE_HZ
    assert np.abs(velocity).max() <= VELOCITY


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_chunk_made_to_continue_has_a_seam_a_third_as_sharp(seed: int) -> None:
    rows = play("rtc", seed)
    # Frozen rows are what was executed, and there were enough of them.
    assert column(rows, "frozen_error").max() < 1e-6
    assert rows[-1]["not_continuing"] == 0
    assert seam_acceleration(play("async", seed)) >= 3.0 * seam_acceleration(rows)
