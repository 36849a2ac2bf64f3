"""How large the seams between chunks are, with and without real-time chunking, on the shipped policy in the simulator.

The timing is that of a known complaint: the first call takes 0.7 s, the others 0.3 s, the loop runs at 30 Hz and a
chunk lasts 30 of its steps. Time is simulated, so that every computer gives the same trajectories.

python tools/bench/seams.py --out seams.json --chart seams.svg
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge import ActionGuide, Policy, Prediction
from molmoact2_edge.build import models_dir
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.runtime import RunSettings
from molmoact2_edge.runtime.inference_time import DrawnTimes, InferenceTime
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.simulated_runner import SimulatedRunner
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.runtime.stepped_table import open_stepped_scenario
from molmoact2_edge.telemetry.session import TelemetrySettings
from molmoact2_edge.types import Image

Doubles = npt.NDArray[np.float64]

RATE_HZ = 30.0
CHUNK_STEPS = 30
FIRST_CALL_S, STEADY_CALL_S = 0.7, 0.3
MODES = ("async", "rtc")
_SHOWN_JOINT = "elbow_flex"


class FirstThenSteady(DrawnTimes):
    """A slow call, and quick ones after it."""

    def __init__(self) -> None:
        self._calls = 0

    def next_ns(self) -> int:
        self._calls += 1
        return round((FIRST_CALL_S if self._calls == 1 else STEADY_CALL_S) * 1e9)


@dataclass(frozen=True)
class SlowFirstCall(InferenceTime):
    """0.7 s, then 0.3 s."""

    def drawn(self, seed: int) -> DrawnTimes:
        return FirstThenSteady()

    def __str__(self) -> str:
        return f"{FIRST_CALL_S:g}, then {STEADY_CALL_S:g}"


class ShortChunks:
    """The shipped policy, whose chunks are cut to the length that is measured; it goes on where it is guided."""

    def __init__(self, policy: Policy, rows: int) -> None:
        self._policy = policy
        self._rows = rows

    def predict(
        self,
        images: Sequence[Image],
        task: str,
        state: npt.ArrayLike,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
        guide: ActionGuide | None = None,
    ) -> Prediction:
        """See `Policy.predict`."""
        found = self._policy.predict(
            images, task, state, norm_tag, seed=seed, convention=convention, guide=guide
        )
        return replace(found, actions=found.actions[: self._rows])


@dataclass(frozen=True)
class Trajectory:
    """The executed steps of one episode; (steps,) or (steps, joints) each."""

    mode: str
    seed: int
    outcome: str
    time_s: Doubles
    step: npt.NDArray[np.int64]
    chunk: npt.NDArray[np.int64]
    action: Doubles
    target: Doubles
    command: Doubles

    @property
    def seams(self) -> npt.NDArray[np.int64]:
        """Places at which another chunk has taken over."""
        return np.flatnonzero(np.diff(self.chunk)) + 1

    def jumps(self) -> Doubles:
        """(seams, joints) distance between the targets before and after, per second."""
        return np.abs(self.target[self.seams] - self.target[self.seams - 1]) * RATE_HZ

    def accelerations(self) -> Doubles:
        """(steps - 2, joints) accelerations of the targets, seams or not."""
        return np.abs(np.diff(self.target, n=2, axis=0)) * RATE_HZ**2

    def seam_accelerations(self) -> Doubles:
        """(seams, joints) largest acceleration of the targets among the two that span a seam."""
        second = self.accelerations()
        return np.array([second[max(seam - 2, 0) : seam].max(axis=0) for seam in self.seams if seam >= 2])


def configuration(mode: str) -> RobotConfig:
    """The simulated arm with a loop of 30 Hz, asked for a new chunk as soon as the last one has come."""
    config = load_robot("sim-so101")
    return replace(
        config,
        loop=replace(config.loop, rate_hz=RATE_HZ),
        chunk=replace(config.chunk, mode=mode, replan_after=0, resampling="linear"),
    )


def follow(policy: Policy, mode: str, seed: int, seconds: float = 6.0) -> Trajectory:
    """Run one episode; it ends when the block is touched, or after `seconds`."""
    config = configuration(mode)
    rows = round(CHUNK_STEPS * config.chunk.rate_hz / RATE_HZ) - config.chunk.first_action_due
    table = open_stepped_scenario(config)
    try:
        runner = SimulatedRunner(
            table,
            ShortChunks(policy, rows),
            config,
            RunSettings(episodes=1, seed=seed, duration_s=seconds, telemetry=TelemetrySettings()),
            StatusDisplay(io.StringIO()),
            SlowFirstCall(),
        )
        runner.run(Interruption())
        telemetry = runner.loop.records(0)
    finally:
        table.close()
    if telemetry.lost:
        raise RuntimeError(f"{telemetry.lost} records of the episode were overwritten")
    records = [record for record in telemetry.records if record["followed"]]
    begin_ns = telemetry.records[0]["deadline_ns"]
    return Trajectory(
        mode,
        seed,
        runner.results[0].reason,
        np.array([(record["deadline_ns"] - begin_ns) * 1e-9 for record in records]),
        np.array([record["step"] for record in records]),
        np.array([record["chunk"] for record in records]),
        np.array([record["action"] for record in records]),
        np.array([record["target"] for record in records]),
        np.array([record["command"] for record in records]),
    )


def figures(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """What is said of one mode: over all seams, of the joint that is worst at each."""
    accelerations = np.concatenate([t.seam_accelerations() for t in trajectories])
    jumps = np.concatenate([t.jumps() for t in trajectories])
    return {
        "episodes": [{"seed": t.seed, "outcome": t.outcome, "steps": len(t.step)} for t in trajectories],
        "seams": len(jumps),
        "acceleration": _spread(accelerations),
        "acceleration_anywhere": _spread(np.concatenate([t.accelerations() for t in trajectories])),
        "jump_per_s": _spread(jumps),
    }


def _spread(values: Doubles) -> dict[str, float]:
    worst = values.max(axis=1)
    return {
        "mean": round(float(worst.mean()), 2),
        "median": round(float(np.median(worst)), 2),
        "max": round(float(worst.max()), 2),
    }


def chart(pairs: Sequence[Sequence[Trajectory]], joint: int) -> str:
    """An SVG: one row per mode, the targets and commands of one joint over time, seams as vertical lines."""
    width, height, margin = 900, 260, 40
    shown = [trajectories[0] for trajectories in pairs]
    last = max(float(t.time_s[-1]) for t in shown)
    low = min(float(t.target[:, joint].min()) for t in shown)
    high = max(float(t.target[:, joint].max()) for t in shown)

    def place(time: float, value: float, row: int) -> str:
        x = margin + (width - 2 * margin) * time / last
        y = row * height + margin + (height - 2 * margin) * (high - value) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(shown)}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, t in enumerate(shown):
        for seam in t.seams:
            x, _ = place(float(t.time_s[seam]), low, row).split(",")
            top, bottom = row * height + margin, (row + 1) * height - margin
            parts.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="#ccc"/>')
        for values, colour in ((t.target, "#c33"), (t.command, "#236")):
            points = " ".join(
                place(float(time), float(value), row)
                for time, value in zip(t.time_s, values[:, joint], strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{margin}" y="{row * height + 25}">{t.mode}, {_SHOWN_JOINT}, {low:.0f} to {high:.0f} degrees, '
            f"{last:.1f} s: target red, command after the gate blue, seams grey</text>"
        )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg")
    arguments = parser.parse_args()
    policy = Policy.from_pretrained(models_dir() / "so101-touch", device="cpu", dtype="float32")
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    runs = {mode: [follow(policy, mode, seed) for seed in seeds] for mode in MODES}
    found: dict[str, Any] = {
        "timing": {
            "first_call_s": FIRST_CALL_S,
            "steady_call_s": STEADY_CALL_S,
            "loop_rate_hz": RATE_HZ,
            "chunk_steps": CHUNK_STEPS,
        },
        "unit": "degrees (gripper: percent) per s and per s^2, of targets before the gate; each seam's worst joint",
        **{mode: figures(trajectories) for mode, trajectories in runs.items()},
    }
    means = [found[mode]["acceleration"]["mean"] for mode in MODES]
    found["acceleration_ratio"] = round(means[0] / means[1], 2)
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    if arguments.chart is not None:
        joint = list(configuration("rtc").joints).index(_SHOWN_JOINT)
        arguments.chart.write_text(chart([runs[mode] for mode in MODES], joint), encoding="utf-8")


if __name__ == "__main__":
    main()
