"""The stream to Rerun: real recordings, read back with Rerun's own reader; viewers that are not there, or stall."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import Bench, Failing
from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime import Runner, build_report, summary
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.telemetry.viz import RerunViewer, viewer_url

rerun = pytest.importorskip("rerun")
Make = Callable[..., Runner]


class Recording:
    """What is in a .rrd file, by entity: rows that are not static, and their columns."""

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stream that was cut off has no table of contents
            reader = pytest.importorskip("rerun.chunk").RrdReader(str(path))
        self.rows: Counter[str] = Counter()
        self.tables: dict[str, list[Any]] = {}
        for chunk in reader.stream():
            if chunk.is_static:
                continue
            entity = chunk.entity_path.lstrip("/")
            self.rows[entity] += chunk.num_rows
            self.tables.setdefault(entity, []).append(chunk.to_record_batch())

    def column(self, entity: str, ending: str) -> list[Any]:
        values: list[Any] = []
        for table in self.tables[entity]:
            (name,) = (name for name in table.schema.names if name.endswith(ending))
            values += table.column(name).to_pylist()
        return values

    def times(self, entity: str) -> Any:
        return np.concatenate(
            [table.column("time").to_numpy(zero_copy_only=False) for table in self.tables[entity]]
        )


def recorded(runner: Runner, path: Path) -> Recording:
    runner.run(Interruption())
    facts = runner.telemetry.facts()["viz"]  # type: ignore[union-attr]
    assert facts["failure"] is None
    assert facts["dropped"] == {}
    return Recording(path)


def test_a_recording_has_every_tick_chunk_call_and_event(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    path = tmp_path / "run.rrd"
    runner = runner_for(episodes=2, duration_s=0.7, viz=f"save:{path}")
    recording = recorded(runner, path)
    ticks = runner.loop.records().records
    news = runner.journal.since()
    joints = list(runner.config.joints)
    for entity in (*(f"joints/{joint}" for joint in joints), "timing/loop_ms", "timing/age_ms"):
        assert recording.rows[entity] == len(ticks), entity
    for entity in (f"chunks/{joint}" for joint in joints):
        assert recording.rows[entity] == sum(len(chunk.actions) for chunk in news.chunks)
    assert recording.rows["chunks"] == len(news.chunks) > 1
    assert recording.rows["policy/calls"] == recording.rows["policy/call_ms"] == len(news.calls)
    for camera in bench.cameras:
        assert 5 <= recording.rows[f"cameras/{camera}"] <= len(ticks)
    # A change of state or reason, or the beginning of a run, is an event.
    changes = 1 + sum(
        (a["run"], a["state"], a["reason"]) != (b["run"], b["state"], b["reason"])
        or b["rejected_chunk"] != "none"
        for a, b in itertools.pairwise(ticks)
    )
    assert recording.rows["gate"] == changes

    poses = recording.column(f"joints/{joints[0]}", "scalars")
    times = recording.times(f"joints/{joints[0]}")
    order = np.argsort(times, kind="stable")
    wanted = [[tick[pose][0] for pose in ("measured", "target", "command")] for tick in ticks]
    np.testing.assert_array_equal(np.array(poses)[order], wanted)
    apart_ns = np.diff(np.sort(times).astype(np.int64))
    np.testing.assert_array_equal(apart_ns, np.diff([tick["wakeup_ns"] for tick in ticks]))
    jpeg = recording.column("cameras/front", "blob")[0]
    assert bytes(np.ravel(jpeg)[:2].astype(np.uint8)) == b"\xff\xd8"


def test_reruns_own_command_accepts_the_file(runner_for: Make, tmp_path: Path) -> None:
    path = tmp_path / "run.rrd"
    runner_for(Failing("raises"), episodes=1, duration_s=0.4, viz=f"save:{path}").run(Interruption())
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = Recording(path).column("policy/calls", "text")
    assert any("ArithmeticError" in str(text) for text in calls)


def test_a_viewer_that_is_not_there_is_an_error_with_its_address(runner_for: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    policy = Failing("raises")
    with pytest.raises(InputError, match=rf"--viz 127.0.0.1:{port}: .*save:FILE.rrd"):
        runner_for(policy, episodes=1, viz=f"127.0.0.1:{port}").run(Interruption())
    assert policy.seeds == []


def test_a_file_that_cannot_be_written_is_an_error(runner_for: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--viz save:"):
        runner_for(episodes=1, viz=f"save:{tmp_path}/missing/run.rrd").run(Interruption())


@pytest.mark.slow
def test_a_viewer_that_stalls_costs_the_run_nothing(
    runner_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molmoact2_edge.telemetry.viz._FLUSH_TIMEOUT_S", 1.0)
    monkeypatch.setattr("molmoact2_edge.telemetry.viz._CLOSE_TIMEOUT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and never says a word
        runner = runner_for(episodes=1, duration_s=1.0, viz=f"127.0.0.1:{server.getsockname()[1]}")
        begin = time.monotonic()
        runner.run(Interruption())
        assert time.monotonic() - begin < 15.0
    assert runner.results[0].duration_s < 1.5
    report = build_report(runner, {})
    assert report["telemetry"]["viz"]["failure"] is not None
    assert "warning viz" in summary(report)


def test_a_sender_that_is_slow_drops_and_counts(
    runner_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molmoact2_edge.telemetry.viz._QUEUE_LOOKS", 2)
    real = RerunViewer._send

    def slow(self: RerunViewer, look: Any) -> None:
        time.sleep(0.2)
        real(self, look)

    monkeypatch.setattr(RerunViewer, "_send", slow)
    path = tmp_path / "run.rrd"
    runner = runner_for(episodes=1, duration_s=1.0, viz=f"save:{path}")
    runner.run(Interruption())
    assert runner.results[0].duration_s < 1.5
    facts = runner.telemetry.facts()["viz"]  # type: ignore[union-attr]
    kept = Recording(path).rows["timing/loop_ms"]
    assert facts["dropped"]["ticks"] > 0
    assert kept + facts["dropped"]["ticks"] == runner.loop.ticks
    assert "warning viz" in summary(build_report(runner, {}))


def test_a_sender_that_fails_is_told_and_ends_nothing(
    runner_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(RerunViewer, "_send", fail)
    runner = runner_for(episodes=1, duration_s=0.4, viz=f"save:{tmp_path / 'run.rrd'}")
    runner.run(Interruption())
    assert runner.completed
    assert "out of paint" in summary(build_report(runner, {}))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:9876", "rerun+http://127.0.0.1:9876/proxy"),
        ("viewer.local:80", "rerun+http://viewer.local:80/proxy"),
        ("rerun+http://10.0.0.2:9876/proxy", "rerun+http://10.0.0.2:9876/proxy"),
    ],
)
def test_addresses_become_urls(address: str, url: str) -> None:
    assert viewer_url(address) == url


@pytest.mark.parametrize("address", ["viewer", "http://127.0.0.1:9876", "", "host:port", "host:99999999"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="--viz expects HOST:PORT"):
        viewer_url(address)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_live_viewer_gets_the_stream(runner_for: Make, tmp_path: Path) -> None:
    """Rerun's command stands in for its window, and writes what arrives to a file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "arrived.rrd"
    command = [sys.executable, "-m", "rerun", "--bind", "127.0.0.1", "--port", str(port), "--save", str(path)]
    viewer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 30.0
        while not answers(port):
            assert time.monotonic() < give_up, "rerun did not start"
            time.sleep(0.05)
        runner = runner_for(episodes=1, duration_s=0.5, viz=f"127.0.0.1:{port}")
        runner.run(Interruption())
        facts = runner.telemetry.facts()["viz"]  # type: ignore[union-attr]
        assert facts["failure"] is None
        assert facts["dropped"] == {}
        time.sleep(1.0)  # the command's own way to the disk
    finally:
        viewer.send_signal(signal.SIGINT)
        viewer.wait(20.0)
    assert Recording(path).rows["timing/loop_ms"] == runner.loop.ticks
