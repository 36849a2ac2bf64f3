"""Closed-loop episodes in simulated time: many worlds side by side, one batched prediction for all of them.

Timing is that of a robot whose prediction takes a tenth of a second: a chunk is computed from an observation and takes
over one step later, while the chunk before goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from snapshots import IMAGE_SIDE, RATE_HZ, observe, to_patches
from trainee import Trainee

from molmoact2_edge.processor.normalization import unnormalize
from molmoact2_edge.sim import CAMERAS, COLOURS, Outcome, TouchTask, World

_SIDE_BY_SIDE = 10
_LATENCY_STEPS = 1
REPLAN_STEPS = 3
"""A new observation every so many steps of the chunk, as `models/robots/sim-so101.yaml` has it."""
TEST_SEED = 1000
"""Seeds 1000 to 1049 are for the final report only; nothing is chosen by them."""


@dataclass(frozen=True)
class Episode:
    """How one episode ended."""

    seed: int
    colour: str
    outcome: Outcome
    seconds: float


class _Attempt:
    """One episode under way in a world of its own."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        rng = np.random.default_rng(seed)
        world.reset(rng)
        self.task = TouchTask(COLOURS[int(rng.integers(len(COLOURS)))])
        self.generator = torch.Generator().manual_seed(seed)
        self._chunk = np.tile(world.positions(), (_LATENCY_STEPS, 1))

    def move(self, chunk: npt.NDArray[Any], replan_steps: int) -> Outcome:
        """Finish what is left of the last chunk until the new one takes over, then follow that to the next look."""
        ahead = np.concatenate([self._chunk[:_LATENCY_STEPS], chunk[_LATENCY_STEPS:replan_steps]])
        self._chunk = chunk[replan_steps:]
        for targets in ahead:
            self.world.step(targets, 1.0 / RATE_HZ)
            outcome = self.task.outcome(self.world)
            if outcome.done:
                break
        return outcome


def run_episodes(
    trainee: Trainee,
    seeds: Sequence[int],
    *,
    flow_steps: int,
    replan_steps: int = REPLAN_STEPS,
    visit: Callable[[int, dict[str, npt.NDArray[Any]]], None] | None = None,
    time_limit: float | None = None,
) -> list[Episode]:
    """Run one episode per seed with the trainee's present weights, in the order of the seeds.

    ``visit`` gets the seed and a labelled snapshot of every state in which the policy was asked.
    """
    worlds = [World(0, image_size=(IMAGE_SIDE, IMAGE_SIDE)) for _ in range(min(_SIDE_BY_SIDE, len(seeds)))]
    waiting = list(reversed(seeds))
    running = [_Attempt(world, waiting.pop()) for world in worlds]
    episodes: dict[int, Episode] = {}
    while running:
        if visit is not None:
            for attempt in running:
                visit(attempt.seed, observe(attempt.world))
        chunks = _predict(trainee, running, flow_steps)
        still: list[_Attempt] = []
        for attempt, chunk in zip(running, chunks, strict=True):
            outcome = attempt.move(chunk, replan_steps)
            late = time_limit is not None and attempt.world.time >= time_limit
            if not outcome.done and not late:
                still.append(attempt)
                continue
            episodes[attempt.seed] = Episode(attempt.seed, attempt.task.colour, outcome, attempt.world.time)
            if waiting:
                still.append(_Attempt(attempt.world, waiting.pop()))
        running = still
    for world in worlds:
        world.close()
    return [episodes[seed] for seed in seeds]


def _predict(trainee: Trainee, attempts: Sequence[_Attempt], flow_steps: int) -> npt.NDArray[np.float32]:
    """Return (attempts, T, 6) targets in degrees and gripper units."""
    prompts = trainee.prompts
    images = np.stack([[to_patches(a.world.render(camera)) for camera in CAMERAS] for a in attempts])
    states = np.stack([a.world.positions() for a in attempts]).astype(np.float32)
    suffixes = prompts.suffixes(states)
    named = suffixes[np.arange(len(attempts)), [COLOURS.index(a.task.colour) for a in attempts]]
    shape = (prompts.embodiment.action_horizon, prompts.embodiment.action_dim)
    noise = torch.stack([torch.randn(shape, generator=a.generator) for a in attempts])
    patches = torch.from_numpy(images).float().div_(255).mul_(2).sub_(1)
    chunks = trainee.act(patches, torch.from_numpy(named), noise, flow_steps).numpy()
    return unnormalize(chunks, prompts.embodiment.action_stats, prompts.norm_mode)
