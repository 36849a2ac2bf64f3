"""The suite on the simulated arm, which is a driver like any other, and on the emulated SO-101 through its wire."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from molmoact2_drivers import Robot
from molmoact2_edge.config import load_robot
from molmoact2_edge.hil import Checklist, Suite, SuiteSettings, Verdict
from molmoact2_edge.hil.arm import ArmUnderTest
from molmoact2_edge.hil.emulated import emulated
from molmoact2_edge.runtime.hardware import make_robot
from molmoact2_edge.runtime.hardware_fit import within_reach

pytestmark = pytest.mark.alone

SETTINGS = SuiteSettings(rates_hz=(50.0,), seconds=1.5)


@pytest.fixture(scope="module", params=["simulated", "so101", "koch"])
def arm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmUnderTest]:
    config = load_robot("koch" if request.param == "koch" else "so101")
    config = replace(config, loop=replace(config.loop, silence_hold_s=0.25))
    if request.param == "simulated":
        from molmoact2_edge.sim import World
        from molmoact2_edge.sim.robot import SimRobot

        robot: Robot = SimRobot(World(0))
        robot.connect()
        robot.configure()
        yield ArmUnderTest(robot, within_reach(config, robot.capabilities))
        robot.disconnect()
        return
    with emulated(config, tmp_path_factory.mktemp("arm")) as emulation:
        robot = make_robot(emulation.config)
        robot.connect()
        robot.configure()
        yield ArmUnderTest(robot, within_reach(emulation.config, robot.capabilities), emulation.processes)
        robot.disconnect()


def judged(suite: Suite) -> dict[str, object]:
    checks = suite.checklist.checks
    failed = {f"{c.group}: {c.name}": c.reasons for c in checks if c.verdict is Verdict.FAILED}
    assert failed == {}
    return {c.name: c.figures for c in checks if c.verdict is Verdict.PASSED}


def test_who_it_is_and_how_fast_its_bus_is(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), SETTINGS)
    suite.identification()
    suite.timing(50.0)
    suite.timing(1000.0)  # more than either takes
    told = judged(suite)
    assert set(told) == {"joints", "pose", "levels that are watched", "50 Hz"}
    assert suite.checklist.checks[-1].verdict is Verdict.SKIPPED
    assert len(arm.config.joints) == 6


def test_it_follows_slow_motion_through_the_gate(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), SETTINGS)
    suite.tracking("wrist_flex")
    figures = judged(suite)["wrist_flex"]
    assert isinstance(figures, dict)
    assert figures["moved"] == pytest.approx(10.0, abs=1.0)


def test_what_goes_beyond_the_limits_is_limited(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), SETTINGS)
    suite.gate()
    assert set(judged(suite)) == {
        "a pose to begin from",
        "position",
        "velocity and acceleration",
        "jump",
        "not a number",
    }


def test_every_stop_ends_at_rest(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), SETTINGS)
    suite.stops()
    assert set(judged(suite)) == {"the API", "a file", "a socket", "SIGTERM"}


def test_the_motors_do_what_a_stop_policy_says(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), SETTINGS)
    suite.stop_policies()
    told = judged(suite)
    assert {"then hold", "then it can be switched on again"} <= set(told)
    # Only an emulated arm is let go.
    assert ("then torque_off" in told) == arm.emulated


def test_an_arm_that_does_not_follow_fails_its_tracking(arm: ArmUnderTest) -> None:
    suite = Suite(arm, Checklist(print), replace(SETTINGS, lag_max_s=-1.0))
    suite.tracking("elbow_flex")
    (check,) = suite.checklist.checks
    assert check.verdict is Verdict.FAILED
    assert check.reasons[0].startswith("it lags by")
    assert np.isfinite(check.figures["error_rms"])
