"""Whole runs that record: what is in the dataset is what the cameras and the loop had, and nothing waits for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import Bench, Failing, StillCamera
from molmoact2_drivers import Frame
from molmoact2_edge.control import TickRecord
from molmoact2_edge.errors import InputError, MissingExtraError
from molmoact2_edge.runtime import Runner, build_report, summary
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.telemetry.dataset.episode import EpisodeDraft

av = pytest.importorskip("av")
pq = pytest.importorskip("pyarrow.parquet")

Make = Callable[..., Runner]
SIZE = (24, 32)


class CountingCamera(StillCamera):
    """Exposes a new picture every 33 ms; its grey tells which."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.exposed: dict[int, int] = {}
        self.begun_ns = time.monotonic_ns()

    def latest(self) -> Frame:
        number = (time.monotonic_ns() - self.begun_ns) // 33_000_000
        exposed_ns = self.frozen_ns or self.begun_ns + number * 33_000_000
        grey = int(number * 5 % 200 + 20)
        self.exposed[exposed_ns] = grey
        return Frame(np.full((*SIZE, 3), grey, np.uint8), exposed_ns, int(number))


@pytest.fixture(autouse=True)
def counting_cameras(bench: Bench) -> None:
    bench.cameras = {name: CountingCamera(name) for name in ("front", "wrist")}


def dataset(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    tables = [pq.read_table(path) for path in sorted(root.glob("data/*/*.parquet"))]
    names = tables[0].column_names
    return {name: np.concatenate([np.array(table[name].to_pylist()) for table in tables]) for name in names}


def greys(root: Path, camera: str) -> list[float]:
    (path,) = (root / f"videos/observation.images.{camera}").glob("*/*.mp4")
    with av.open(str(path)) as container:
        return [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]


def ticks_of(runner: Runner) -> list[TickRecord]:
    return [record for record in runner.loop.records().records if record["written_ns"]]


def test_rows_are_what_the_loop_and_the_cameras_had(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    runner = runner_for(episodes=2, duration_s=0.8, record=tmp_path / "set")
    runner.run(Interruption())
    facts = runner.telemetry.facts()["recording"]  # type: ignore[union-attr]
    assert facts["failure"] is None
    assert facts["episodes"] == [0, 1]
    rows = dataset(tmp_path / "set")
    assert len(rows["index"]) == facts["frames"]
    assert (np.bincount(rows["episode_index"]) >= 10).all()
    by_run = {run: [tick for tick in ticks_of(runner) if tick["run"] == run] for run in (1, 2)}
    pictures = {camera: greys(tmp_path / "set", camera) for camera in bench.cameras}
    for episode in (0, 1):
        ticks = by_run[episode + 1]
        measured = np.array([tick["measured"] for tick in ticks], np.float32)
        command = np.array([tick["command"] for tick in ticks], np.float32)
        times = np.array([tick["wakeup_ns"] for tick in ticks])
        (chosen,) = np.nonzero(rows["episode_index"] == episode)
        states = rows["observation.state"][chosen].astype(np.float32)
        actions = rows["action"][chosen].astype(np.float32)
        # The first row is a tick's; from there on rows are 1/30 s apart, and each is the last tick before it.
        fitting = [
            start
            for start in range(len(ticks))
            if all(
                np.array_equal(measured[place], states[k]) and np.array_equal(command[place], actions[k])
                for k in range(len(chosen))
                for place in [np.searchsorted(times, times[start] + round(k * 1e9 / 30), side="right") - 1]
            )
        ]
        assert fitting
        for camera, source in bench.cameras.items():
            exposed = sorted(source.exposed)
            for k, row in enumerate(chosen):
                time_ns = times[fitting[0]] + round(k * 1e9 / 30)
                grey = source.exposed[exposed[int(np.searchsorted(exposed, time_ns, side="right")) - 1]]
                assert abs(pictures[camera][row] - grey) < 3.0
    assert "recorded" in summary(build_report(runner, {}))


def test_a_signal_ends_the_recording_with_what_was_seen(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    interruption = Interruption()
    runner = runner_for(episodes=5, record=tmp_path)
    timer = threading.Timer(1.0, interruption.ask, [signal.SIGINT])
    timer.start()
    runner.run(interruption)
    timer.join()
    facts = runner.telemetry.facts()["recording"]  # type: ignore[union-attr]
    assert (facts["episodes"], facts["failure"]) == ([0], None)
    assert len(dataset(tmp_path)["index"]) == facts["frames"] > 5


def test_a_fault_ends_the_recording_with_what_was_seen(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(episodes=1, duration_s=10.0, record=tmp_path)

    def silence() -> None:
        while runner.loop.ticks < 15:
            time.sleep(0.002)
        bench.robot.silent = True

    thread = threading.Thread(target=silence)
    thread.start()
    runner.run(Interruption())
    thread.join()
    assert runner.results[0].reason == "fault: state_lost"
    assert len(dataset(tmp_path)["index"]) > 20


def test_an_error_of_the_run_leaves_the_episode_complete(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(episodes=1, duration_s=10.0, record=tmp_path)

    def fail() -> None:
        raise RuntimeError("the judge went home")

    def later() -> None:
        time.sleep(0.5)
        bench.outcome = fail  # type: ignore[method-assign,assignment]

    thread = threading.Thread(target=later)
    thread.start()
    with pytest.raises(RuntimeError, match="went home"):
        runner.run(Interruption())
    thread.join()
    assert len(dataset(tmp_path)["index"]) > 3


def test_a_camera_that_stops_leaves_rows_out_and_says_so(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(episodes=1, duration_s=1.6, record=tmp_path)

    def freeze() -> None:
        while runner.loop.ticks < 20:
            time.sleep(0.002)
        bench.cameras["wrist"].frozen_ns = time.monotonic_ns()

    thread = threading.Thread(target=freeze)
    thread.start()
    runner.run(Interruption())
    thread.join()
    facts = runner.telemetry.facts()["recording"]  # type: ignore[union-attr]
    assert facts["dropped"]["camera"] >= 10
    rows = dataset(tmp_path)
    assert len(rows["index"]) == facts["frames"] >= 10
    np.testing.assert_array_equal(rows["frame_index"], np.arange(facts["frames"]))
    assert len(greys(tmp_path, "front")) == facts["frames"]
    assert f"camera {facts['dropped']['camera']}" in summary(build_report(runner, {}))


def test_a_writer_that_cannot_keep_up_drops_and_never_holds_the_run(
    bench: Bench, runner_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EpisodeDraft.add_frame

    def slow(self: EpisodeDraft, *frame: Any) -> None:
        time.sleep(0.1)
        real(self, *frame)

    monkeypatch.setattr(EpisodeDraft, "add_frame", slow)
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.recorder._QUEUE_ROWS", (4, 4))
    runner = runner_for(episodes=1, duration_s=1.0, record=tmp_path)
    runner.run(Interruption())
    assert runner.results[0].duration_s < 2.0
    facts = runner.telemetry.facts()["recording"]  # type: ignore[union-attr]
    assert facts["dropped"]["queue"] >= 5
    assert len(dataset(tmp_path)["index"]) == facts["frames"] >= 4
    assert len(greys(tmp_path, "wrist")) == facts["frames"]


def test_a_disk_that_fails_ends_the_recording_and_not_the_run(
    bench: Bench, runner_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    runner = runner_for(episodes=2, duration_s=0.5, record=tmp_path)
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.writer.write_with", full)
    runner.run(Interruption())
    assert runner.completed
    facts = runner.telemetry.facts()["recording"]  # type: ignore[union-attr]
    assert "No space left" in facts["failure"]
    assert facts["dropped"]["failure"] > 0
    assert not (tmp_path / "meta/info.json").exists()
    assert "warning recording" in summary(build_report(runner, {}))


def test_what_is_wrong_with_the_place_shows_before_anything_moves(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    policy = Failing("raises")
    with pytest.raises(InputError, match="no dataset but"):
        runner_for(policy, episodes=1, record=tmp_path).run(Interruption())
    with pytest.raises(InputError, match="60 frames per second"):
        runner_for(policy, episodes=1, record=tmp_path / "set", record_fps=60).run(Interruption())
    assert policy.seeds == []


@pytest.mark.parametrize(
    ("option", "module", "extra"),
    [({"record": Path("set")}, "pyarrow.parquet", "record"), ({"record": Path("set")}, "av", "record"),
     ({"viz": "save:run.rrd"}, "rerun", "viz")],
)  # fmt: skip
def test_a_missing_package_is_named_with_what_installs_it(
    bench: Bench,
    runner_for: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: dict[str, Any],
    module: str,
    extra: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(
        MissingExtraError, match=rf"--{extra} needs .*pip install 'molmoact2-edge\[{extra}\]'"
    ):
        runner_for(episodes=1, **option).run(Interruption())
    assert list(tmp_path.iterdir()) == []
