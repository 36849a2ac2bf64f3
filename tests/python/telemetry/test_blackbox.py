"""Faults of a running loop end in a file with what led to them, equal to what the ring had."""

from __future__ import annotations

import csv
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import Bench, Failing, Lifting, configuration
from molmoact2_edge.cli import main
from molmoact2_edge.control import ControlLoop, MailboxPort, Telemetry
from molmoact2_edge.runtime import Runner
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.telemetry.blackbox import FILES_KEPT, BlackBox
from molmoact2_edge.telemetry.blackbox_file import BlackBoxContent, read_black_box
from molmoact2_edge.telemetry.journal import Journal, JournalNews, PolicyCall
from molmoact2_edge.telemetry.session import telemetry_lines

Make = Callable[..., Runner]


def run_until_silent(runner: Runner, bench: Bench, after_ticks: int = 15) -> None:
    """Run, and let the robot fall silent once the loop had some ticks."""

    def silence() -> None:
        while runner.loop.ticks < after_ticks:
            time.sleep(0.002)
        bench.robot.silent = True

    thread = threading.Thread(target=silence)
    thread.start()
    runner.run(Interruption())
    thread.join()


def assert_same_as_ring(content: BlackBoxContent, loop: ControlLoop) -> None:
    ring = {record["tick"]: record for record in loop.records().records}
    assert len(content.ticks) > 0
    for tick in content.ticks:
        for key, value in ring[tick["tick"]].items():
            np.testing.assert_array_equal(tick[key], value, err_msg=key)


def test_a_silent_bus_leaves_a_black_box_that_equals_the_ring(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(episodes=1, duration_s=10.0, blackbox=tmp_path / "boxes")
    run_until_silent(runner, bench)
    assert runner.results[0].reason == "fault: state_lost"
    assert runner.telemetry is not None
    (path,) = (tmp_path / "boxes").iterdir()
    assert runner.telemetry.facts()["black_boxes"] == [str(path)]

    content = read_black_box(path)
    assert content.damage == []
    assert content.header["reason"] == "fault: state_lost"
    assert content.joints == list(configuration().joints)
    assert content.robot == runner.config.as_dict()
    assert content.machine["cores"] >= 1
    assert_same_as_ring(content, runner.loop)
    # From the first tick of the run to the one after the fault at which the arm was at rest.
    assert content.ticks[0]["tick"] == 1
    assert content.ticks[-1]["tick"] == runner.loop.ticks
    states = [tick["state"] for tick in content.ticks]
    first_fault = states.index("fault")
    assert content.ticks[first_fault]["tick"] == content.header["reason_tick"]
    reasons = [event["reason"] for event in content.events]
    assert reasons.index("state_stale") < reasons.index("state_lost")
    assert {call["outcome"] for call in content.calls} == {"chunk"}
    assert [chunk["number"] for chunk in content.chunks] == list(range(1, len(content.chunks) + 1))
    assert content.chunks[0]["actions"].shape == (11, 6)  # the measured pose stands before ten actions


def test_what_a_policy_without_sense_said_is_in_the_box(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(Failing("not finite"), episodes=1, duration_s=0.6, blackbox=tmp_path)

    def ask() -> None:
        while "target_not_finite" not in runner.loop.statistics()["reason_events"]:
            time.sleep(0.005)
        runner.request_black_box("asked for by a test")

    thread = threading.Thread(target=ask)
    thread.start()
    runner.run(Interruption())
    thread.join()
    (path,) = tmp_path.iterdir()
    content = read_black_box(path)
    assert content.header["reason"] == "asked for by a test"
    assert_same_as_ring(content, runner.loop)
    assert all(np.isfinite(tick["command"]).all() for tick in content.ticks)
    spoilt = [chunk for chunk in content.chunks if np.isnan(chunk["actions"][1:]).all()]
    assert spoilt
    assert "target_not_finite" in {event["reason"] for event in content.events}


def test_calls_that_fail_are_in_the_box_with_their_words(
    bench: Bench, runner_for: Make, tmp_path: Path
) -> None:
    runner = runner_for(Failing("raises"), episodes=1, duration_s=10.0, blackbox=tmp_path)
    run_until_silent(runner, bench)
    (path,) = tmp_path.iterdir()
    call = read_black_box(path).calls[-1]
    assert (call["outcome"], call["message"]) == ("ArithmeticError", "the device fell off")
    assert call["observed_ns"] <= call["begun_ns"] <= call["ended_ns"]


def test_a_fault_of_the_robot_leaves_a_black_box(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    runner = runner_for(episodes=1, duration_s=10.0, blackbox=tmp_path)

    def break_down() -> None:
        while runner.loop.ticks < 5:
            time.sleep(0.002)
        bench.robot.fault = "servo 3 is too hot"

    thread = threading.Thread(target=break_down)
    thread.start()
    runner.run(Interruption())
    thread.join()
    (path,) = tmp_path.iterdir()
    assert read_black_box(path).header["reason"] == "robot: servo 3 is too hot"


def test_a_run_without_a_fault_leaves_nothing(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    runner_for(episodes=1, duration_s=0.3, blackbox=tmp_path / "boxes").run(Interruption())
    assert list(tmp_path.iterdir()) == []


def test_each_run_that_faults_has_its_own_box(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    for _ in range(2):  # the second meets a robot that is silent from the beginning
        run_until_silent(runner_for(episodes=2, duration_s=10.0, blackbox=tmp_path), bench)
    boxes = [read_black_box(path) for path in sorted(tmp_path.iterdir())]
    assert [box.header["reason"] for box in boxes] == ["fault: state_lost", "fault: state_missing"]


def still_loop() -> ControlLoop:
    return ControlLoop(MailboxPort(6), configuration().limits())


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a black box")
    loop = still_loop()
    for number in range(FILES_KEPT + 3):
        (tmp_path / f"blackbox-2020010{number // 10}T{number:06d}.00-old.jsonl").write_text("old")
    box = BlackBox(tmp_path, loop, configuration(), Journal())
    box.start()
    box.request("first")
    box.stop()
    kept = sorted(path.name for path in tmp_path.glob("blackbox-*"))
    assert len(kept) == FILES_KEPT
    assert kept[-1].endswith("-first.jsonl")
    assert (tmp_path / "notes.txt").exists()


def test_a_directory_that_cannot_be_written_is_told_and_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = BlackBox(tmp_path / "file" / "boxes", still_loop(), configuration(), Journal())
    box.start()
    box.request("test")
    box.stop()
    assert box.files == []
    assert box.failure is not None
    assert "cannot write a black box" in box.failure
    assert box.failures == 2  # at once, and when the moments after it were known


class DamagedJournal(Journal):
    """Fails as no file system does, so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times_left = times

    def since(self, place: tuple[int, int] = (0, 0)) -> JournalNews:
        if self.times_left > 0:
            self.times_left -= 1
            raise ValueError("a call without an end")
        return super().since(place)


def test_an_error_that_nobody_thought_of_is_told_and_counted_and_the_next_fault_has_its_file(
    tmp_path: Path,
) -> None:
    box = BlackBox(tmp_path, still_loop(), configuration(), DamagedJournal(3))
    box.start()
    for reason in ("first", "second", "third", "fourth"):
        box.request(reason)
    box.stop()
    assert box.failure is not None
    assert re.fullmatch(
        r"a black box came to ValueError: a call without an end \(test_blackbox\.py:\d+\)", box.failure
    )
    assert box.failures == 3
    # The first three were written when they were complete, which is at the end.
    assert sorted(read_black_box(path).header["reason"] for path in tmp_path.iterdir()) == [
        "first", "fourth", "second", "third",
    ]  # fmt: skip
    assert len(box.files) == 4


def test_an_error_of_the_loop_does_not_end_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = still_loop()
    box = BlackBox(tmp_path, loop, configuration(), Journal())
    asked = threading.Event()

    def records(after: int = 0) -> Telemetry:
        asked.set()
        raise TypeError("a ring without records")

    monkeypatch.setattr(loop, "records", records)
    box.start()
    assert asked.wait(10.0)
    monkeypatch.undo()
    box.request("afterwards")
    box.stop()
    assert box.failures >= 1
    assert box.failure is not None
    assert "TypeError: a ring without records" in box.failure
    (path,) = tmp_path.iterdir()
    assert read_black_box(path).header["reason"] == "afterwards"


def test_a_report_says_how_often_a_black_box_failed() -> None:
    facts = {
        "black_boxes": [],
        "black_box_failure": "the disk is full",
        "black_box_failures": 1,
        "recording": None,
        "viz": None,
    }
    assert telemetry_lines(facts) == ["warning black box: the disk is full"]
    assert telemetry_lines(facts | {"black_box_failures": 7}) == [
        "warning black box: the disk is full (the first of 7 failures)"
    ]


def test_the_journal_is_bounded_and_tells_only_what_is_new() -> None:
    journal = Journal()
    for number in range(1000):
        journal.note_call(PolicyCall(number, number, number, "chunk"))
    news = journal.since()
    assert len(news.calls) <= 200
    assert news.calls[-1].observed_ns == 999
    assert journal.since(news.place).calls == []
    journal.note_call(PolicyCall(1000, 0, 0, "invalid"))
    assert [call.observed_ns for call in journal.since(news.place).calls] == [1000]


@pytest.fixture
def box_file(bench: Bench, runner_for: Make, tmp_path: Path) -> Path:
    runner = runner_for(Lifting(), episodes=1, duration_s=10.0, blackbox=tmp_path / "boxes")
    run_until_silent(runner, bench)
    (path,) = (tmp_path / "boxes").iterdir()
    return path


def test_the_command_says_what_happened_and_writes_csv(
    box_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "ticks.csv"
    assert main(["blackbox", str(box_file), "--events", "--ticks", "3", "--csv", str(table)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fault: state_lost   robot sim-so101, loop at 50 Hz")
    for joint in configuration().joints:
        assert joint in printed
    for words in ("state_stale", "age of state", "policy, latest calls", "command"):
        assert words in printed
    content = read_black_box(box_file)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["tick"]) for row in rows] == [tick["tick"] for tick in content.ticks]
    assert [float(row["command.gripper"]) for row in rows] == [tick["command"][5] for tick in content.ticks]

    damaged = tmp_path / "cut.jsonl"
    damaged.write_bytes(box_file.read_bytes()[:-2000])
    assert main(["blackbox", str(damaged)]) == 3
    assert "DAMAGED: the file ends early" in capsys.readouterr().out

    assert main(["blackbox", str(table)]) == 1
    assert "is not a black box" in capsys.readouterr().err
    assert main(["blackbox", str(box_file), "--csv", str(tmp_path / "no" / "t.csv")]) == 1
    assert "--csv" in capsys.readouterr().err


def test_a_file_appears_whole_and_is_never_seen_half(bench: Bench, runner_for: Make, tmp_path: Path) -> None:
    runner = runner_for(episodes=1, duration_s=10.0, blackbox=tmp_path)
    seen: list[BlackBoxContent] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.extend(read_black_box(path) for path in tmp_path.glob("blackbox-*"))
            os.sched_yield()

    thread = threading.Thread(target=watch)
    thread.start()
    run_until_silent(runner, bench)
    done.set()
    thread.join()
    assert seen
    assert all(content.damage == [] for content in seen)
