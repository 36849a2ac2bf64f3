"""All telemetry at once: no thread stays, nothing grows, and the loop's ring is all that it is read from."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import Bench
from molmoact2_edge.runtime import Runner
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.telemetry.blackbox import SPAN_S, ring_capacity
from molmoact2_edge.telemetry.blackbox_file import read_black_box
from molmoact2_edge.telemetry.journal import PolicyCall, PushedChunk

pytest.importorskip("av")
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("rerun")
Make = Callable[..., Runner]


def everything(tmp_path: Path) -> dict[str, Any]:
    return {
        "blackbox": tmp_path / "boxes",
        "record": tmp_path / "set",
        "viz": f"save:{tmp_path / 'run.rrd'}",
    }


def named_threads() -> set[str]:
    """Of this package; libraries keep pools of their own."""
    ours = ("black-box", "dataset-", "viz-", "policy-worker", "video")
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(ours)}


def test_no_thread_stays_however_a_run_ends(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    runner = runner_for(episodes=2, duration_s=0.3, **everything(tmp_path))
    runner.run(Interruption())
    assert named_threads() == set()

    def fail() -> None:
        raise RuntimeError("the judge went home")

    bench.outcome = fail  # type: ignore[method-assign,assignment]
    runner = runner_for(episodes=1, **everything(tmp_path))
    with pytest.raises(RuntimeError):
        runner.run(Interruption())
    assert named_threads() == set()
    (path,) = (tmp_path / "boxes").iterdir()
    assert read_black_box(path).header["reason"] == "error: RuntimeError"


def test_no_thread_stays_when_something_cannot_be_opened(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    asked = {**everything(tmp_path), "viz": f"save:{tmp_path}/missing/run.rrd"}
    with pytest.raises(ValueError, match="--viz"):
        runner_for(episodes=1, **asked).run(Interruption())
    assert named_threads() == set()


def wait_until_idle(runner: Runner) -> None:
    """What waits in a queue is bounded, but differs from one moment to the next."""
    assert runner.telemetry is not None
    assert runner.telemetry.recorder is not None
    assert runner.telemetry.viewer is not None
    give_up = time.monotonic() + 10.0
    while not (runner.telemetry.recorder._queue.empty() and runner.telemetry.viewer._queue.empty()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(0.2)  # the item that was taken last


@pytest.mark.slow
def test_nothing_grows(
    bench: Bench, runner_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    begin = bench.begin

    def measuring(seed: int, task: str | None) -> str:
        wait_until_idle(runner)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        return begin(seed, task)

    monkeypatch.setattr(bench, "begin", measuring)
    runner = runner_for(episodes=8, duration_s=0.7, **everything(tmp_path))
    for number in range(200):  # the journal is full from the beginning
        runner.journal.note_call(PolicyCall(0, 0, 0, "chunk"))
        runner.journal.note_chunk(PushedChunk(number, 0, 0, 0, 0, np.zeros((11, 6))))
    tracemalloc.start()
    try:
        runner.run(Interruption())
    finally:
        tracemalloc.stop()
    # Of most episodes, once all have begun: now and then a buffer that is kept grows. The books of an episode take some
    # kilobytes, up to 30 where a busy computer makes the arm hold often; the images recorded in one are 97.
    growth = np.median(np.diff(held[2:]))
    assert growth < 60_000, f"{held} bytes at the beginnings of episodes"


def test_the_ring_holds_what_a_black_box_needs() -> None:
    assert ring_capacity(1000.0) >= 1000 * SPAN_S * 1.1
    assert ring_capacity(10.0) >= 10 * SPAN_S * 1.1
