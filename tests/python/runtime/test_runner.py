"""Whole runs against a bench robot: episodes, holds, faults, stops and the books that are kept."""

from __future__ import annotations

import io
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import WARM_UP_CALLS, Bench, Failing, Lifting, Predicted, configuration
from molmoact2_drivers import Measurement, StopPolicy
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.runtime import Runner, RunSettings, build_report, summary, write_report
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.status import _UP_AND_CLEAR, StatusDisplay, gate_counts


@pytest.fixture
def bench() -> Iterator[Bench]:
    scenario = Bench()
    scenario.open()
    yield scenario
    scenario.close()


def runner_for(bench: Bench, policy: Lifting, **settings: object) -> Runner:
    return Runner(bench, policy, configuration(), RunSettings(**settings), StatusDisplay(io.StringIO()))  # type: ignore[arg-type]


def test_episodes_run_to_success_with_their_own_seeds(bench: Bench, tmp_path: Path) -> None:
    policy = Lifting()
    runner = runner_for(bench, policy, episodes=2, seed=1000)
    runner.run(Interruption())
    assert runner.completed
    assert runner.successes == 2
    assert bench.begun == [(1000, None), (1000, None), (1001, None)]  # the first is the warm-up
    assert set(policy.tasks) == {"lift joint 1000", "lift joint 1001"}
    drawn = policy.seeds[WARM_UP_CALLS:]
    assert len(set(drawn)) == len(drawn)
    assert [result.reason for result in runner.results] == ["lifted", "lifted"]

    report = build_report(runner, {"checkpoint": "bench"})
    path = tmp_path / "report.json"
    write_report(report, path)
    read = json.loads(path.read_text())
    assert list(read)[:2] == ["episodes", "successes"]
    assert (read["episodes"], read["successes"], read["completed"]) == (2, 2, True)
    assert sum(outcome["ticks"] for outcome in read["outcomes"]) == read["loop"]["ticks"]
    assert sum(outcome["executed_steps"] for outcome in read["outcomes"]) == read["loop"]["executed_steps"]
    assert sum(read["gate"]["states"].values()) == read["loop"]["ticks"]
    # Every tick of every episode but its first has a period.
    assert read["loop"]["period"]["count"] == read["loop"]["ticks"] - 2
    assert {"camera_age", "total", "observation_to_action"} <= set(read["latency"])
    for spread in read["latency"].values():
        assert 0 <= spread["p50_ms"] <= spread["p95_ms"] <= spread["p99_ms"] <= spread["max_ms"]
    assert "2 of 2 episodes succeeded" in summary(report)
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_seed_gives_the_policy_the_same_noise(bench: Bench) -> None:
    first, second = Lifting(), Lifting()
    runner_for(bench, first, episodes=1, seed=5).run(Interruption())
    runner_for(bench, second, episodes=1, seed=5).run(Interruption())
    shared = min(len(first.seeds), len(second.seeds))
    assert shared > WARM_UP_CALLS
    assert first.seeds[:shared] == second.seeds[:shared]


def test_real_time_chunking_hands_the_policy_what_is_being_executed(bench: Bench) -> None:
    policy = Lifting()
    config = configuration()
    rtc = replace(config, chunk=replace(config.chunk, mode="rtc"))
    runner = Runner(bench, policy, rtc, RunSettings(episodes=1), StatusDisplay(io.StringIO()))
    runner.run(Interruption())
    (result,) = runner.results
    assert result.success
    first, *later = policy.guides[WARM_UP_CALLS:]
    assert first is None  # nothing is being executed yet
    guides = [guide for guide in later if guide is not None]
    assert len(guides) == result.guided_chunks >= 1
    for guide in guides:
        assert guide.weights[0] == 1.0
        assert (np.diff(guide.weights) <= 0.0).all()
        assert guide.actions.shape == (len(guide.weights), 6)
        assert (np.diff(guide.actions[:, 0]) > 0.0).all()  # on its way up


@pytest.mark.parametrize(
    ("how", "name", "reason"),
    [
        ("raises", "ArithmeticError", "waiting_for_chunk"),
        ("invalid", "invalid", "waiting_for_chunk"),
        ("narrow", "InputError", "waiting_for_chunk"),
        ("not finite", None, "target_not_finite"),
    ],
)
def test_a_policy_that_fails_holds_the_arm(bench: Bench, how: str, name: str | None, reason: str) -> None:
    runner = runner_for(bench, Failing(how), episodes=1, duration_s=0.6)
    runner.run(Interruption())
    (result,) = runner.results
    assert result.completed
    assert not result.success
    assert result.reason == "not over after 0.6 s"
    assert np.abs(bench.robot.pose).max() < 1e-6
    assert reason in {event["reason"] for event in result.gate_events}
    # Of a chunk that is not finite only the measured pose, which stands before its first action, is executed.
    assert result.executed_steps <= result.chunks
    if name is not None:
        assert result.held_back[name] >= 2  # the worker goes on asking
        message = result.held_back_messages[name]
        assert message.startswith(("the device fell off", "does not decode", "the policy gives actions of"))


def test_old_images_are_not_given_to_the_policy(bench: Bench) -> None:
    policy = Lifting()
    runner = runner_for(bench, policy, episodes=1, duration_s=1.0)

    def freeze() -> None:
        while len(bench.begun) < 2:
            time.sleep(0.001)
        bench.cameras["wrist"].frozen_ns = time.monotonic_ns() - 2_000_000_000

    bench.goal = 1e9
    thread = threading.Thread(target=freeze)
    thread.start()
    runner.run(Interruption())
    thread.join()
    (result,) = runner.results
    assert result.held_back["camera_stale"] >= 1
    assert "0.5 s is the limit" in result.held_back_messages["camera_stale"]
    assert runner.loop.statistics()["state_ticks"]["holding"] > 0


def test_a_robot_that_falls_silent_is_a_fault_with_its_reason(bench: Bench) -> None:
    bench.goal = 1e9
    runner = runner_for(bench, Lifting(), episodes=2, duration_s=10.0)

    def silence() -> None:
        while runner.loop.ticks < 15:
            time.sleep(0.002)
        bench.robot.silent = True

    thread = threading.Thread(target=silence)
    thread.start()
    runner.run(Interruption())
    thread.join()
    (first,) = runner.results  # a fault is not cleared by going on with the next episode
    assert not first.completed
    assert first.reason == "fault: state_lost"
    events = [event["reason"] for event in first.gate_events]
    assert events.index("state_stale") < events.index("state_lost")
    assert not runner.completed


def test_a_signal_ends_the_run_with_the_arm_at_rest(bench: Bench) -> None:
    bench.goal = 1e9
    interruption = Interruption()
    runner = runner_for(bench, Lifting(), episodes=5)

    def interrupt() -> None:
        while runner.loop.statistics()["executed_steps"] < 10:
            time.sleep(0.002)
        interruption.ask(signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    runner.run(interruption)
    thread.join()
    (result,) = runner.results
    assert result.reason == "ended by SIGTERM"
    assert not runner.completed
    assert not runner.loop.running
    assert result.gate_events[-1]["state"] in ("idle", "stopping")
    assert result.gate_events[-1]["reason"] == "stop_signal"


def test_the_stop_pose_does_not_wait_for_a_call_that_does_not_come_back(bench: Bench) -> None:
    bench.goal = 1e9
    stuck, released = threading.Event(), threading.Event()
    came_back: list[bool] = []

    class Stuck(Lifting):
        def answer(self, rows: np.ndarray) -> Predicted:
            if self.calls > WARM_UP_CALLS + 1:
                stuck.set()
                came_back.append(released.wait(20.0))
            return Predicted(rows)

    stopped: list[bool] = []
    usual = bench.robot.stop

    def stop(policy: StopPolicy) -> None:
        stopped.append(runner.loop.running)
        usual(policy)
        released.set()

    bench.robot.stop = stop
    runner = runner_for(bench, Stuck(), episodes=3)

    def interrupt() -> None:
        assert stuck.wait(20.0)
        runner.loop.latch_stop()

    thread = threading.Thread(target=interrupt)
    thread.start()
    runner.run(Interruption())
    thread.join()
    assert stopped == [False]  # once, with the loop at rest
    assert bench.robot.stops == [StopPolicy.HOLD]
    assert came_back == [True]


def test_motors_that_do_not_take_the_stop_pose_are_told_and_the_books_are_kept(bench: Bench) -> None:
    def stop(policy: StopPolicy) -> None:
        raise RobotError("the bus is gone")

    bench.robot.stop = stop
    runner = runner_for(bench, Lifting(), episodes=1)
    runner.run(Interruption())
    assert runner.completed
    report = build_report(runner, {})
    assert report["stop_pose_failure"] == "the bus is gone"
    assert "the bus is gone" in summary(report)


def test_levels_that_the_robot_does_not_measure_are_told_at_the_start(bench: Bench) -> None:
    config = configuration()
    watched = replace(
        config, watchdogs=replace(config.watchdogs, temperature=(55.0, 65.0), current=(1.5, 2.5))
    )
    bench.robot.capabilities = replace(bench.robot.capabilities, measures=frozenset({Measurement.CURRENT}))
    said = io.StringIO()
    runner = Runner(bench, Lifting(), watched, RunSettings(episodes=1), StatusDisplay(said))
    runner.run(Interruption())
    first = said.getvalue().splitlines()[0]
    assert first.startswith("warning: watchdogs.temperature has levels, but this robot does not measure it")
    assert "watchdogs.current" not in said.getvalue()
    assert build_report(runner, {})["unmeasured_levels"] == runner.unmeasured


def test_a_policy_for_another_robot_is_refused_before_anything_moves(bench: Bench) -> None:
    class Wide(Lifting):
        def answer(self, rows: np.ndarray):  # type: ignore[no-untyped-def]
            return super().answer(np.concatenate([rows, rows], axis=1))

    runner = runner_for(bench, Wide(), episodes=1)
    with pytest.raises(InputError, match=r"actions of shape \(10, 12\), robot 'sim-so101' has 6 joints"):
        runner.run(Interruption())
    assert runner.results == []
    assert runner.loop.ticks == 0


def test_an_error_of_the_first_call_is_raised_as_it_is(bench: Bench) -> None:
    class Picky(Lifting):
        def answer(self, rows: np.ndarray):  # type: ignore[no-untyped-def]
            raise InputError("no norm tag 'x'")

    with pytest.raises(InputError, match="no norm tag"):
        runner_for(bench, Picky(), episodes=1).run(Interruption())


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"episodes": 0}, "episodes"), ({"seed": -1}, "seed"), ({"duration_s": 0.0}, "duration"),
     ({"duration_s": float("nan")}, "duration")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        RunSettings(**settings)  # type: ignore[arg-type]


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--report"):
        write_report({}, tmp_path / "missing" / "report.json")


def test_the_video_shows_both_cameras(bench: Bench, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "out.mp4"
    runner = runner_for(bench, Lifting(), episodes=1, video=path)
    runner.run(Interruption())
    assert runner.video_failure is None
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) >= 15
    assert (frames[0].width, frames[0].height) == (2 * 448, 336 + 32)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_status_is_one_block_that_is_drawn_over_itself() -> None:
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        display = StatusDisplay(stream)
        display.update(["one", "two"])
        display.update(["three", "four"])
        display.line("done")
    assert terminal.getvalue() == "one\ntwo\n\x1b[2F\x1b[Jthree\nfour\n\x1b[2F\x1b[Jdone\n"
    assert plain.getvalue() == "done\n"


class Timed(Lifting):
    """Says how long its stages took."""

    def answer(self, rows: np.ndarray) -> Predicted:
        return replace(super().answer(rows), timing={"preprocess": 0.0021, "flow": 0.0104, "total": 0.0126})


def test_live_status_shows_the_loop_the_images_every_stage_and_the_gate(bench: Bench) -> None:
    bench.goal = 1e9
    terminal = Terminal()
    settings = RunSettings(episodes=1, duration_s=1.0)
    Runner(bench, Timed(), configuration(), settings, StatusDisplay(terminal)).run(Interruption())
    last = terminal.getvalue().split(_UP_AND_CLEAR.format(6))[-2]
    assert re.search(r"^loop    period p50 \d+\.\d\d ms", last, re.MULTILINE)
    assert re.search(r"^policy  \d+ calls .* call 13 ms", last, re.MULTILINE)
    assert re.search(r"^images  age \d+ ms$", last, re.MULTILINE)
    assert re.search(r"^stages  preprocess 2\.1  flow 10\.4 ms$", last, re.MULTILINE)
    assert re.search(r"^gate    \w+ \(\w+\)  step \d+   ticks: \w+ \d+", last, re.MULTILINE)


def test_the_gates_counts_leave_out_what_held_nothing() -> None:
    ticks = {"none": 9, "jump": 2, "starting": 4, "velocity_limit": 7, "stop_requested": 1}
    assert gate_counts(ticks) == "velocity_limit 7, jump 2"
    assert gate_counts({"none": 9}) == ""
