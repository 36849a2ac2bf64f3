"""The whole way in the simulator: the scripted expert as the policy, cameras, worker, splice, gate, physics, judge."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest

from bench import WARM_UP_CALLS, Expert, Predicted, configuration
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.runtime import Runner, RunSettings, Scenario, build_report, open_scenario
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.status import StatusDisplay

DELAY_S = 0.08  # a policy's call


class SlowExpert(Expert):
    """Takes as long as a policy."""

    def answer(self, rows: np.ndarray) -> Predicted:
        time.sleep(DELAY_S)
        return Predicted(rows, timing={"total": DELAY_S})


@pytest.fixture
def scenario() -> Any:
    opened: Scenario = open_scenario(configuration())
    yield opened
    opened.close()


def test_the_expert_touches_the_named_block_through_the_whole_loop(scenario: Any) -> None:
    runner = Runner(
        scenario,
        SlowExpert(scenario),
        configuration(),
        RunSettings(episodes=2, seed=1000, duration_s=60.0),
        StatusDisplay(io.StringIO()),
    )
    runner.run(Interruption())
    assert [result.reason.split(" after")[0] for result in runner.results] == [
        f"touched {result.instruction.removeprefix('touch ')}" for result in runner.results
    ]
    report = build_report(runner, {})
    assert (report["episodes"], report["successes"]) == (2, 2)
    assert report["gate"]["states"]["fault"] == 0
    assert "simulated_time_lost_s" in report["scenario"]


def test_a_camera_that_repeats_its_last_image_holds_the_arm(scenario: Any) -> None:
    """From two periods after its limit on nothing is executed any more, however late a tick itself is."""

    class Stalling(SlowExpert):
        def answer(self, rows: np.ndarray) -> Predicted:
            if self.calls == WARM_UP_CALLS + 2:
                self.scenario.cameras["wrist"]._ending.set()  # its thread ends; latest() goes on answering
            return super().answer(rows)

    config = configuration()
    runner = Runner(
        scenario,
        Stalling(scenario),
        config,
        RunSettings(episodes=1, seed=1000, duration_s=3.0),
        StatusDisplay(io.StringIO()),
    )
    runner.run(Interruption())
    (result,) = runner.results
    assert result.reason == "not over after 3 s"
    assert "camera_stale" in {event["reason"] for event in result.gate_events}
    assert result.held_back["camera_stale"] >= 1
    exposed_ns = scenario.cameras["wrist"].latest().time_ns
    limit_ns = (config.watchdogs.camera_age_max_s + 2.0 / config.loop.rate_hz) * 1e9
    records = runner.loop.records(0).records
    assert any(record["followed"] for record in records)
    assert all(record["wakeup_ns"] - exposed_ns <= limit_ns for record in records if record["followed"])


def test_a_seed_gives_its_scene_and_instruction_also_with_a_task_of_ones_own(scenario: Any) -> None:
    def scene() -> Any:
        with scenario.robot.world() as world:
            return world.scene

    first, first_scene = scenario.begin(7, None), scene()
    assert scenario.begin(8, None) is not None
    assert scene() != first_scene
    assert scenario.begin(7, "Touch the blue block.") == "Touch the blue block."
    assert scene() == first_scene
    assert scenario.begin(7, None) == first
    with pytest.raises(InputError, match="expected 'touch the"):
        scenario.begin(7, "tidy up")


def test_a_robot_without_a_driver_is_refused() -> None:
    data: RobotConfig = configuration()
    with pytest.raises(InputError, match="needs the driver 'hydraulic'"):
        open_scenario(RobotConfig(**{**vars(data), "driver": "hydraulic"}))
    with pytest.raises(InputError, match="the simulator's joints are"):
        open_scenario(RobotConfig(**{**vars(data), "joints": {"hip": data.joints["gripper"]}}))
