"""Data from the policy's own mistakes: it acts in closed loop, and the expert labels every state that it visits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from closed_loop import run_episodes
from snapshots import FIELDS, create
from trainee import Trainee

_BLOCK = 20  # episodes between two reports
# A policy that looks often stalls in other places than one that looks seldom.
_REPLAN_STEPS = (1, 2, 3)


@dataclass(frozen=True)
class VisitPlan:
    """Which episodes are run."""

    episodes: int
    first_seed: int
    flow_steps: int
    time_limit: float = 4.0
    """Seconds after which a lost episode teaches nothing new."""


def collect(
    trainee: Trainee, folder: Path, plan: VisitPlan, *, progress: Callable[[int, str], None]
) -> dict[str, np.memmap[Any, Any]]:
    """Run the episodes with the trainee's present weights and keep labelled snapshots of all visited states.

    A finished folder of the same plan is loaded as it is.
    """
    record = folder / "visits.json"
    if not (record.exists() and json.loads(record.read_text())["plan"] == asdict(plan)):
        rows: list[dict[str, npt.NDArray[Any]]] = []

        def visit(seed: int, snapshot: dict[str, npt.NDArray[Any]]) -> None:
            rows.append({**snapshot, "scene": np.array(seed)})

        successes = 0
        for first in range(0, plan.episodes, _BLOCK):
            seeds = range(plan.first_seed + first, plan.first_seed + min(first + _BLOCK, plan.episodes))
            episodes = run_episodes(
                trainee,
                list(seeds),
                flow_steps=plan.flow_steps,
                replan_steps=_REPLAN_STEPS[first // _BLOCK % len(_REPLAN_STEPS)],
                visit=visit,
                time_limit=plan.time_limit,
            )
            successes += sum(one.outcome.success for one in episodes)
            done = min(first + _BLOCK, plan.episodes)
            progress(done, f"{successes} of {done} succeeded")
        arrays = create(folder, len(rows))
        for name in FIELDS:
            arrays[name][:] = np.stack([row[name] for row in rows])
        record.write_text(json.dumps({"plan": asdict(plan), "successes": successes}))
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FIELDS}
