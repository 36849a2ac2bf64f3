"""The whole way in the simulator: the scripted expert as the policy, cameras, worker, splice, gate, physics, judge."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest

from bench import Predicted, configuration
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.guide import ActionGuide
from molmoact2_edge.runtime import Runner, RunSettings, Scenario, build_report, open_scenario
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.sim import expert_chunk, parse_instruction

DELAY_S = 0.08  # a policy's call


class Expert:
    """Looks at the world instead of the images, then takes as long as a policy."""

    def __init__(self, scenario: Any) -> None:
        self.scenario = scenario

    def predict(
        self,
        images: Any,
        task: str,
        state: Any,
        norm_tag: str | None = None,
        *,
        seed: int | None = None,
        convention: str = "none",
        guide: ActionGuide | None = None,
    ) -> Predicted:
        assert [image.shape for image in images] == [(112, 112, 3)] * 2
        assert np.shape(state) == (6,)
        with self.scenario.robot.world() as world:
            actions = expert_chunk(world, parse_instruction(task), horizon=10, rate_hz=10.0)
        time.sleep(DELAY_S)
        return Predicted(actions.astype(np.float32), timing={"total": DELAY_S})


@pytest.fixture
def scenario() -> Any:
    opened: Scenario = open_scenario(configuration())
    yield opened
    opened.close()


def test_the_expert_touches_the_named_block_through_the_whole_loop(scenario: Any) -> None:
    runner = Runner(
        scenario,
        Expert(scenario),
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
