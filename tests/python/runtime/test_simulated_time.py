"""Episodes in simulated time: repeatable to the bit, in every mode, and with every fault that real time knows."""

from __future__ import annotations

import io
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench
from bench import WARM_UP_CALLS, Predicted, configuration, spoiled
from molmoact2_edge.cli import main
from molmoact2_edge.config import SPLICE_MODES, RobotConfig, load_robot
from molmoact2_edge.errors import InputError, PolicyError, RobotError
from molmoact2_edge.runtime import RunSettings, build_report
from molmoact2_edge.runtime.agenda import Agenda
from molmoact2_edge.runtime.inference_time import InferenceTime
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.simulated_runner import SimulatedRunner
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.runtime.stepped_table import SteppedTable, open_stepped_scenario
from molmoact2_edge.telemetry.session import TelemetrySettings

CONFIG = configuration()


class Expert(bench.Expert):
    """Keeps all images; ``answer`` is for those who spoil it."""

    def __init__(self, scenario: SteppedTable) -> None:
        super().__init__(scenario)
        self.images: list[Any] = []

    def answer(self, rows: np.ndarray) -> Any:
        self.images.append(self.seen)
        return Predicted(rows, timing={"total": 123.0})  # what it really took is nobody's business here


@pytest.fixture
def table() -> Any:
    opened = open_stepped_scenario(CONFIG)
    yield opened
    opened.close()


def run(
    table: SteppedTable | None = None,
    policy: Any = None,
    config: RobotConfig = CONFIG,
    taking: str = "0.1",
    interruption: Interruption | None = None,
    **settings: Any,
) -> SimulatedRunner:
    """Run on ``table``, or one of its own; a table's motors are left as the configuration wants afterwards."""
    if table is None:
        table = open_stepped_scenario(config)
        try:
            return run(table, policy, config, taking, interruption, **settings)
        finally:
            table.close()
    runner = SimulatedRunner(
        table,
        policy or Expert(table),
        config,
        RunSettings(**{"episodes": 1, "seed": 1000, **settings}),
        StatusDisplay(io.StringIO()),
        InferenceTime.parse(taking),
    )
    runner.run(interruption or Interruption())
    return runner


def in_mode(mode: str, **chunk: Any) -> RobotConfig:
    return replace(CONFIG, chunk=replace(CONFIG.chunk, mode=mode, **chunk))


def repeatable(runner: SimulatedRunner) -> str:
    """The report without what is known to differ: how long it really took."""
    report = build_report(runner, {})
    del report["time"]["wall_clock"]
    return json.dumps(report, sort_keys=True)


# Repeatable ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SPLICE_MODES)
def test_a_seed_gives_the_same_run_to_the_bit_in_every_mode(mode: str) -> None:
    first, second = (run(config=in_mode(mode), taking="uniform:0.05:0.2", episodes=2) for _ in range(2))
    assert [result.completed for result in first.results] == [True, True]
    assert first.successes == 2, [result.reason for result in first.results]
    assert second.hashes == first.hashes
    assert repeatable(second) == repeatable(first)


def test_an_episode_does_not_depend_on_those_before_it() -> None:
    both = run(episodes=2)
    alone = run(seed=1001)
    assert alone.hashes == both.hashes[1:]
    assert both.hashes[0] != both.hashes[1]


def test_what_changes_the_run_changes_its_hash() -> None:
    runs = [run(), run(seed=1001), run(taking="0.15"), run(config=in_mode("sync"))]
    assert len({runner.time_facts()["trajectory_sha256"] for runner in runs}) == len(runs)


def test_the_images_are_the_same_to_the_bit_too(table: SteppedTable) -> None:
    other = open_stepped_scenario(CONFIG)
    try:
        first, second = Expert(table), Expert(other)
        run(table, first)
        run(other, second)
    finally:
        other.close()
    assert len(first.images) == len(second.images) > 3
    for ours, theirs in zip(first.images, second.images, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not np.array_equal(first.images[2][0], first.images[-1][0])


def test_the_shipped_policy_is_repeatable_and_succeeds(tmp_path: Path) -> None:
    reports = []
    for name in ("first.json", "second.json"):
        arguments = [
            "--time",
            "simulated",
            "--episodes",
            "1",
            "--seed",
            "1000",
            "--report",
            str(tmp_path / name),
        ]
        assert main(["run", *arguments, "--blackbox", str(tmp_path / "boxes")]) == 0
        report = json.loads((tmp_path / name).read_text())
        assert report["successes"] == 1
        assert report["time"]["mode"] == "simulated"
        del report["time"]["wall_clock"], report["policy"], report["machine"]
        reports.append(report)
    assert reports[0] == reports[1]


# One clock -----------------------------------------------------------------------------------------------------------


def test_a_chunk_arrives_after_the_inference_time_and_not_before(table: SteppedTable) -> None:
    runner = run(table, taking="0.13")
    news = runner.journal.since()
    assert len(news.chunks) >= 3
    for call, chunk in zip(news.calls, news.chunks, strict=True):
        assert chunk.pushed_ns - call.begun_ns == 130_000_000
        assert (chunk.actions.shape[1], call.outcome) == (6, "chunk")
    latency = runner.latencies.report()
    assert latency["total"]["p50_ms"] == latency["total"]["max_ms"] == 130.0
    # Exposures every 33.3 ms meet a tick every 20 ms.
    assert latency["observation_to_action"]["max_ms"] <= 130.0 + 33.4 + 20.0


def test_ticks_are_a_period_apart_and_what_was_measured_is_a_period_of_the_physics_old(
    table: SteppedTable,
) -> None:
    runner = run(table)
    statistics = runner.loop.statistics()
    assert statistics["period"]["max_s"] == 0.02
    assert statistics["overruns"] == 0
    assert statistics["wakeup_latency"]["max_s"] == 0.0
    assert statistics["state_age"]["max_s"] < 0.008
    assert runner.results[0].ticks == pytest.approx(runner.results[0].duration_s * 50, abs=1)


def test_the_judges_time_is_the_loops(table: SteppedTable) -> None:
    (result,) = run(table).results
    touched_s = float(result.reason.split(" after ")[1].removesuffix(" s"))
    assert 0.0 <= result.duration_s - touched_s < 0.3  # until it is noticed and the arm is at rest


def test_real_time_chunking_gets_its_guides(table: SteppedTable) -> None:
    expert = Expert(table)
    runner = run(table, expert, in_mode("rtc"))
    assert runner.results[0].guided_chunks == sum(guide is not None for guide in expert.guides) > 0


# Faults --------------------------------------------------------------------------------------------------------------


def reasons(runner: SimulatedRunner) -> list[str]:
    return [event["reason"] for event in runner.results[0].gate_events]


def test_a_slow_policy_leaves_the_arm_holding(table: SteppedTable) -> None:
    runner = run(table, taking="2.5")
    assert {"chunk_stale", "chunk_exhausted"} & set(reasons(runner))
    assert runner.results[0].completed


def test_a_robot_that_falls_silent_is_held_and_then_a_fault(table: SteppedTable) -> None:
    publish, clock, begun = table.robot._publish, table.clock, []

    def fall_silent() -> None:
        begun.append(clock.now_ns)
        if clock.now_ns - begun[0] < 500_000_000:
            publish()

    table.robot._publish = fall_silent  # type: ignore[method-assign]
    runner = run(table)
    (result,) = runner.results
    assert (result.reason, result.completed) == ("fault: state_lost", False)
    assert reasons(runner).index("state_stale") < reasons(runner).index("state_lost")
    events = {event["reason"]: event["time_s"] for event in result.gate_events}
    hold_s, fault_s = CONFIG.loop.silence_hold_s, CONFIG.loop.silence_fault_s
    period_s = 1.0 / CONFIG.loop.rate_hz
    assert events["state_lost"] - events["state_stale"] == pytest.approx(fault_s - hold_s, abs=2 * period_s)


def test_a_camera_that_stands_still_ends_in_a_hold(table: SteppedTable) -> None:
    camera = table.stepped_cameras[1]
    expose, clock = camera.expose, table.clock
    begin_ns = clock.now_ns

    def stand_still() -> None:
        if clock.now_ns - begin_ns < 400_000_000:
            expose()

    camera.expose = stand_still  # type: ignore[method-assign]
    runner = run(table, duration_s=4.0)
    (result,) = runner.results
    assert result.held_back["camera_stale"] > 0
    assert "0.5 s is the limit" in result.held_back_messages["camera_stale"]
    # Its last exposure is the eleventh; the loop holds within two periods of the limit.
    period_s = 1.0 / CONFIG.loop.rate_hz
    stale_s = next(e["time_s"] for e in result.gate_events if e["reason"] == "camera_stale") + period_s
    assert CONFIG.watchdogs.camera_age_max_s is not None
    over_s = 11 / 30 + CONFIG.watchdogs.camera_age_max_s
    assert over_s <= stale_s <= over_s + 2 * period_s


class Spoiled(Expert):
    def __init__(self, table: SteppedTable, how: str) -> None:
        super().__init__(table)
        self.how = how

    def answer(self, actions: np.ndarray) -> Any:
        if self.calls <= WARM_UP_CALLS + 1:
            return super().answer(actions)
        return spoiled(self.how, actions)


@pytest.mark.parametrize(
    ("how", "held_back"), [("raises", "ArithmeticError"), ("not finite", None), ("invalid", "invalid")]
)
def test_a_policy_that_fails_is_a_hold_with_its_reason(
    how: str, held_back: str | None, table: SteppedTable
) -> None:
    runner = run(table, Spoiled(table, how), duration_s=3.0)
    (result,) = runner.results
    if held_back is not None:
        assert result.held_back[held_back] > 0
    assert {"target_not_finite", "chunk_exhausted"} & set(reasons(runner))
    states = {event["state"] for event in result.gate_events}
    assert "fault" not in states
    assert (result.success, result.reason) == (False, "not over after 3 s")


class Lost(Expert):
    """Its process is lost at the fourth call; it may be started anew ``restarts`` times."""

    def __init__(self, table: SteppedTable, restarts: int) -> None:
        super().__init__(table)
        self.restarts = restarts
        self.failure: str | None = None

    @property
    def spent(self) -> bool:
        return self.failure is not None and self.restarts == 0

    def revive(self) -> None:
        self.restarts -= 1
        self.failure = None

    def answer(self, actions: np.ndarray) -> Any:
        if self.calls == 4:
            self.failure = "the policy's process was killed by SIGKILL"
            raise PolicyError("policy_died", self.failure)
        return super().answer(actions)


def test_a_policy_that_is_lost_for_good_ends_the_episode(table: SteppedTable) -> None:
    (result,) = run(table, Lost(table, restarts=0), episodes=3).results
    assert (result.completed, result.held_back) == (False, {"policy_died": 1})
    assert result.reason == "policy: the policy's process was killed by SIGKILL"


def test_a_policy_that_comes_back_goes_on(table: SteppedTable) -> None:
    (result,) = run(table, Lost(table, restarts=1)).results
    assert (result.success, result.held_back) == (True, {"policy_died": 1})


def test_physics_that_diverge_end_the_episode(table: SteppedTable) -> None:
    step = table.robot._world.step

    def diverge(*arguments: Any) -> None:
        if table.robot._world.time > 0.5:
            raise RobotError("the physics diverged at 0.500 s; reset the world")
        step(*arguments)

    table.robot._world.step = diverge  # type: ignore[method-assign]
    runner = run(table)
    (result,) = runner.results
    assert not result.completed
    assert result.reason.startswith("robot: the physics diverged")


def test_a_signal_ends_the_run_with_the_arm_at_rest(table: SteppedTable) -> None:
    interruption = Interruption()

    class Interrupting(Expert):
        def answer(self, actions: np.ndarray) -> Any:
            if self.calls == 5:
                interruption.ask(signal.SIGINT)
            return super().answer(actions)

    runner = run(table, Interrupting(table), interruption=interruption, episodes=3)
    (result,) = runner.results
    assert (result.reason, result.completed) == ("ended by SIGINT", False)
    assert result.gate_events[-1]["state"] in ("idle", "stopping")
    assert reasons(runner)[-1] == "stop_signal"


# Parts ---------------------------------------------------------------------------------------------------------------


def test_the_agenda_goes_by_time_then_rank_then_entry() -> None:
    agenda, done = Agenda(), list[str]()
    for time_ns, rank, name in ((20, 0, "c"), (10, 1, "b"), (10, 0, "a"), (20, 0, "d")):
        agenda.at(time_ns, rank, lambda name=name: done.append(name))  # type: ignore[misc]
    for _ in range(4):
        agenda.do_next()
    assert done == ["a", "b", "c", "d"]


def test_what_comes_again_does_not_drift_from_its_rate() -> None:
    agenda, times = Agenda(), list[int]()
    agenda.every(7, 30.0, 0, lambda: times.append(due))
    for _ in range(3000):
        due = agenda.next_ns
        agenda.do_next()
    assert times[0] == 7 + 33_333_333
    assert times[2] == 7 + 100_000_000
    assert times[-1] == 7 + 100_000_000_000


@pytest.mark.parametrize("text", ["0", "0.3", "uniform:0.1:0.3", "lognormal:0.3:0.2"])
def test_inference_times_are_drawn_from_the_seed(text: str) -> None:
    time = InferenceTime.parse(text)
    assert str(time) == text
    one, same, other = (time.drawn(seed) for seed in (5, 5, 6))
    ours = [one.next_ns() for _ in range(2000)]
    assert ours == [same.next_ns() for _ in range(2000)]
    assert (ours != [other.next_ns() for _ in range(2000)]) == (":" in text)
    seconds = np.array(ours) * 1e-9
    if time.distribution == "fixed":
        assert np.allclose(seconds, time.first, rtol=1e-12)
    elif time.distribution == "uniform":
        assert seconds.min() >= 0.1
        assert seconds.max() <= 0.3
        assert abs(seconds.mean() - 0.2) < 0.01
    else:
        assert abs(np.median(seconds) - 0.3) < 0.01
        assert abs(np.log(seconds).std() - 0.2) < 0.02


@pytest.mark.parametrize(
    "text", ["", "fast", "-1", "nan", "inf", "uniform:0.1", "uniform:0.3:0.1", "lognormal:0:1", "lognormal:1:-1",
             "normal:1:1", "0.1:0.2"],
)  # fmt: skip
def test_inference_times_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="inference time"):
        InferenceTime.parse(text)


def test_what_follows_real_time_is_refused(table: SteppedTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--video follows real time"):
        run(table, video=tmp_path / "out.mp4")
    with pytest.raises(InputError, match="--record follows real time"):
        run(table, telemetry=TelemetrySettings(record=tmp_path))
    with pytest.raises(InputError, match="simulated time needs a simulated robot"):
        open_stepped_scenario(load_robot("so101"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--inference-time", "0.1"), "--inference-time is for --time simulated"),
        (("--time", "simulated", "--inference-time", "soon"), "inference time 'soon' is not usable"),
        (("--time", "simulated", "--robot", "so101"), "use --robot sim-so101"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--report", str(tmp_path / "report.json"), *arguments]) == 1
    assert message in capsys.readouterr().err
