"""LeRobot's own LeRobotDataset opens what a run records; in an environment of its own, see CONTRIBUTING.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_python import LEROBOT_PYTHON, REPOSITORY, needs_lerobot

from bench import configuration
from molmoact2_edge.runtime import Runner
from molmoact2_edge.runtime.interruption import Interruption

pytest.importorskip("av")
pytest.importorskip("pyarrow.parquet")


def lerobot(*arguments: str) -> str:
    """Run a command of the environment with LeRobot, without a network."""
    done = subprocess.run(
        [str(LEROBOT_PYTHON), "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(root: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        lerobot(str(REPOSITORY / "tools/check_dataset.py"), str(root), *arguments)
    )
    return found


@pytest.mark.slow
@needs_lerobot
def test_lerobot_opens_what_runs_record(
    runner_for: Callable[..., Runner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from molmoact2_edge.telemetry.dataset.episode import EpisodeDraft

    recorded: list[tuple[Any, ...]] = []
    real = EpisodeDraft.add_frame

    def noting(self: EpisodeDraft, *frame: Any) -> None:
        recorded.append(frame)
        real(self, *frame)

    monkeypatch.setattr(EpisodeDraft, "add_frame", noting)
    root = tmp_path / "set"
    for run in range(2):  # the second adds to what the first left
        runner = runner_for(episodes=2, duration_s=0.7, seed=10 * run, record=root)
        runner.run(Interruption())
        assert runner.telemetry is not None
        assert runner.telemetry.facts()["recording"]["failure"] is None
    states, actions, images = zip(*recorded, strict=True)
    reference = tmp_path / "recorded.npz"
    np.savez(
        reference,
        index=np.arange(len(recorded)),
        **{"observation.state": np.stack(states), "action": np.stack(actions)},
        **{
            f"observation.images.{camera}": np.stack([frame[camera] for frame in images])
            for camera in images[0]
        },
    )
    found = check(root, "--recorded", str(reference))
    assert found["lerobot"].startswith("0.4.")
    assert (found["episodes"], found["frames"], found["fps"]) == (4, len(recorded), 30)
    assert found["tasks"] == [f"lift joint {seed}" for seed in (0, 1, 10, 11)]
    assert found["features"]["observation.state"] == [len(configuration().joints)]
    assert found["largest_image_difference"] < 6.0


@pytest.mark.slow
@needs_lerobot
def test_the_check_notices_a_dataset_that_is_not_as_recorded(
    runner_for: Callable[..., Runner], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    runner_for(episodes=1, duration_s=0.7, record=tmp_path).run(Interruption())
    (path,) = tmp_path.glob("data/*/*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("timestamp")
    shifted = pa.array(table["timestamp"].to_numpy() + np.float32(0.02))
    pq.write_table(table.set_column(place, "timestamp", shifted), path)
    done = subprocess.run(
        [str(LEROBOT_PYTHON), "-W", "ignore", str(REPOSITORY / "tools/check_dataset.py"), str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "time stamps are off" in done.stderr


@pytest.mark.slow
@needs_lerobot
def test_lerobot_adds_to_what_a_run_recorded(runner_for: Callable[..., Runner], tmp_path: Path) -> None:
    """And the next run adds to that."""
    runner_for(episodes=1, duration_s=0.5, record=tmp_path).run(Interruption())
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
import numpy as np
from check_dataset import open_dataset
dataset = open_dataset({str(tmp_path)!r})
dataset.vcodec = "h264"
for k in range(8):
    image = np.full((24, 32, 3), 10 * k, np.uint8)
    dataset.add_frame({{"observation.state": np.zeros(6, np.float32), "action": np.ones(6, np.float32),
        "observation.images.front": image, "observation.images.wrist": image, "task": "by LeRobot"}})
dataset.save_episode(parallel_encoding=False)
dataset.finalize()
"""
    lerobot("-c", code)
    assert check(tmp_path)["tasks"] == ["lift joint 0", "by LeRobot"]
    runner = runner_for(episodes=1, duration_s=0.5, seed=3, record=tmp_path)
    runner.run(Interruption())
    found = check(tmp_path)
    assert found["episodes"] == 3
    assert found["tasks"] == ["lift joint 0", "by LeRobot", "lift joint 3"]
    assert sys.executable != str(LEROBOT_PYTHON)
