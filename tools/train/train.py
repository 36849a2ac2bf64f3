"""Train the small policy from nothing: ``python tools/train/train.py``.

Four parts, each of which goes on where it was stopped: snapshots from the simulator, grounding (which block is where,
dense and in next tokens), flow matching on top, and rounds in which the policy acts and the expert labels what it
visits. At the end the checkpoint is written and scored on held-out episodes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import closed_loop
import numpy as np
import release
import snapshots
import stages
import torch
from recipe import RECIPES, Recipe
from trainee import PromptBuilder, Trainee
from visits import collect

from molmoact2_edge.model.layout import checkpoint_tensors

_HELD_OUT_SEED = 1
"""Snapshots of this seed are never trained on."""


class ProgressBar:
    """One line that says how far a part is and how long it will take; plain lines where there is no terminal."""

    def __init__(self, title: str, total: int, started_at: int = 0) -> None:
        self._title, self._total, self._first = title, total, started_at
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._finished = False

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self._finished or (done < self._total and now - self._shown < (0.2 if self._terminal else 15.0)):
            return
        self._finished = done >= self._total
        self._shown = now
        share = done / self._total
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = f"{(self._total - done) / rate:5.0f} s left" if rate > 0 else ""
        bar = "#" * round(24 * share) + "." * (24 - round(24 * share))
        end = "\r" if self._terminal and done < self._total else "\n"
        print(
            f"{self._title:<12} [{bar}] {done}/{self._total} {left}  {note:<60}",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: handing every activation back to the kernel costs a third of a step."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)


def make_snapshots(
    folder: Path, plan: snapshots.SnapshotPlan, workers: int
) -> dict[str, np.memmap[Any, Any]]:
    """Return the snapshots of a plan, made now where they are not there yet."""
    if not snapshots.is_complete(folder, plan):
        bar = ProgressBar("snapshots", plan.snapshots)
        snapshots.generate(folder, plan, workers=workers, progress=bar.update)
    return snapshots.load(folder)


def train_stage(run: stages.StageRun, measure: Callable[[], str]) -> None:
    """Run a stage to its end with a progress bar; ``measure`` judges it now and then."""
    bar = ProgressBar(run.stage.name, run.stage.steps, run.step)
    note = ""

    def report(step: int, losses: Mapping[str, float]) -> None:
        nonlocal note
        if step % 200 == 0 or step == run.stage.steps:
            note = measure()
        bar.update(
            step, note or ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if name == "place")
        )

    run.run(report)


def judge(trainee: Trainee, held_out: Mapping[str, Any], *, flow_steps: int) -> str:
    """Say in a few words how well the present weights ground and, once trained, act on held-out snapshots."""
    fields = {name: np.array(values[:300]) for name, values in held_out.items()}
    cm = 100 * stages.grounding_error(trainee, fields)
    text = f"place {np.median(cm):.2f} cm (p90 {np.quantile(cm, 0.9):.2f})"
    if flow_steps:
        degrees = stages.chunk_error(trainee, fields, steps=flow_steps, seed=0)[:, :, -1, :4]
        text += f", joints {np.median(degrees):.2f} deg (p90 {np.quantile(degrees, 0.9):.2f})"
    return text


def train(recipe: Recipe, work: Path, output: Path, *, workers: int, test_episodes: int) -> dict[str, Any]:
    """Run all parts; return the score of the exported weights."""
    started = time.monotonic()
    data = make_snapshots(work / "snapshots", recipe.data, workers)
    held_out = make_snapshots(
        work / "held_out", snapshots.SnapshotPlan(scenes=recipe.held_out_scenes, seed=_HELD_OUT_SEED), workers
    )
    settings = work / "release"
    actions = np.asarray(data["chunks"]).reshape(-1, data["chunks"].shape[-1])
    release.write_settings(
        settings, recipe.shapes, release.norm_stats_json(np.asarray(data["state"]), actions)
    )

    trainee = Trainee(PromptBuilder(settings), seed=recipe.seed)
    folders: list[Mapping[str, Any]] = [data]
    weights = [1.0]
    for index, stage in enumerate(recipe.stages):
        if index == 0:
            first = stages.StageRun(trainee, stage, stages.Snapshots(folders, weights), work)
            trainee.calibrate(first.batch(0))
        if stage.visits_before:
            folder = work / f"visits_{stage.name}"
            bar = ProgressBar("visits", stage.visits_before)
            folders.append(collect(trainee, folder, recipe.visits(stage), progress=bar.update))
            weights.append(recipe.visit_weight)
        run = stages.StageRun(trainee, stage, stages.Snapshots(folders, weights), work)
        run.resume()
        flow_steps = release.FLOW_STEPS if stage.flow_times else 0
        train_stage(run, lambda flow=flow_steps: judge(trainee, held_out, flow_steps=flow))  # type: ignore[misc]
        if stage.hand_over == "average":
            stages.load_averages(trainee, run.path)

    export(trainee, settings, output)
    seeds = range(closed_loop.TEST_SEED, closed_loop.TEST_SEED + test_episodes)
    episodes = closed_loop.run_episodes(trainee, list(seeds), flow_steps=release.FLOW_STEPS)
    score = {
        "episodes": len(episodes),
        "successes": sum(one.outcome.success for one in episodes),
        "failures": {one.seed: one.outcome.reason for one in episodes if not one.outcome.success},
        "held_out": judge(trainee, held_out, flow_steps=release.FLOW_STEPS),
        "parameters": sum(p.tensor.numel() for p in trainee.parameters),
        "seconds": round(time.monotonic() - started),
    }
    (work / "score.json").write_text(json.dumps(score, indent=2) + "\n")
    return score


def export(trainee: Trainee, settings: Path, output: Path) -> None:
    """Write the checkpoint directory; a card that is already there stays."""
    output.mkdir(parents=True, exist_ok=True)
    for file in settings.glob("*.json"):
        (output / file.name).write_bytes(file.read_bytes())
    release.write_weights(output, checkpoint_tensors(trainee.parameters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--work", type=Path, default=Path("build/train"), help="data and progress; may be deleted"
    )
    parser.add_argument("--output", type=Path, default=Path("build/train/so101-touch"), help="the checkpoint")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="shipped")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--test-episodes", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    score = train(
        RECIPES[args.recipe], args.work, args.output, workers=args.threads, test_episodes=args.test_episodes
    )
    print(json.dumps(score, indent=2))


if __name__ == "__main__":
    main()
