"""A run on the emulated SO-101 through the real driver and its bus: whole, disturbed, and ended by a fault."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import Lifting
from molmoact2_drivers import LifeCycle, StopPolicy
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.runtime import Runner, RunSettings, build_report, open_scenario, summary
from molmoact2_edge.runtime.hardware import HardwareScenario, with_cameras, with_connection
from molmoact2_edge.runtime.interruption import Interruption
from molmoact2_edge.runtime.status import StatusDisplay
from molmoact2_edge.telemetry.session import TelemetrySettings

WAIT_S = 20.0


class Swaying(Lifting):
    """Moves the first joint to one side and back, for as long as it is asked."""

    def actions(self, task: str, state: np.ndarray) -> np.ndarray:
        rows = super().actions(task, state)
        rows[:, 0] = state[0] + np.linspace(0.5, 5.0, len(rows)) * (1.0 if state[0] < 10.0 else -1.0)
        return rows


class Stage:
    """An emulated arm with pictures for cameras, and one episode on it."""

    def __init__(self, stack: ExitStack, tmp_path: Path) -> None:
        calibration = tmp_path / "calibration.json"
        picture = tmp_path / "grey.png"
        _write_grey(picture)
        self.emulator = stack.enter_context(EmulatorProcess("so101", ["--calibration", str(calibration)]))
        config = load_robot("so101")
        small = {name: replace(camera, height=24, width=32) for name, camera in config.cameras.items()}
        config = replace(
            config,
            loop=replace(config.loop, silence_hold_s=0.25),
            cameras=small,
            policy=replace(config.policy, norm_tag=None, joint_convention="none"),
        )
        config = with_connection(config, port=self.emulator.address, calibration=calibration)
        self.config = with_cameras(config, [f"front={picture}", f"wrist={picture}"])
        scenario = open_scenario(self.config)
        stack.callback(scenario.close)
        assert isinstance(scenario, HardwareScenario)
        self.scenario = scenario
        self.blackbox = tmp_path / "blackbox"

    def run(self, cause: Callable[[], None], duration_s: float, **settings: Any) -> Runner:
        runner = Runner(
            self.scenario,
            Swaying(),
            self.scenario.config,
            RunSettings(
                episodes=1,
                task="sway",
                duration_s=duration_s,
                telemetry=TelemetrySettings(blackbox=self.blackbox),
                **settings,
            ),
            StatusDisplay(io.StringIO()),
        )

        def disturb() -> None:
            give_up = time.monotonic() + WAIT_S
            while runner.loop.statistics()["executed_steps"] < 30 and time.monotonic() < give_up:
                time.sleep(0.01)
            cause()

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            runner.run(Interruption())
        finally:
            thread.join()
        return runner


def _write_grey(path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(path), np.full((24, 32, 3), 90, np.uint8))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack, tmp_path)


def test_an_episode_that_nobody_judges_ends_with_its_time(stage: Stage) -> None:
    runner = stage.run(lambda: None, 3.0)
    (result,) = runner.results
    assert runner.completed
    assert (result.success, result.reason) == (False, "ended after 3 s")
    assert result.executed_steps > 30
    assert stage.scenario.robot.life_cycle is LifeCycle.CONFIGURED  # held, by the stop pose
    report = build_report(runner, {})
    assert report["judged"] is False
    assert report["scenario"]["bus"]["exchanges"] > 50
    assert report["scenario"]["cameras"]["front"]["frames"] > 10
    assert "which nobody judged" in summary(report)


def test_a_cable_that_is_pulled_for_a_moment_holds_the_run_and_it_goes_on(stage: Stage) -> None:
    runner = stage.run(lambda: stage.emulator.fault("unplug duration=0.6") and None, 6.0)
    (result,) = runner.results
    assert runner.completed
    reasons = [event["reason"] for event in result.gate_events]
    held = next(i for i, reason in enumerate(reasons) if reason in ("state_stale", "bus_write_failed"))
    states = [event["state"] for event in result.gate_events]
    assert "running" in states[held:]
    assert "fault" not in states
    assert build_report(runner, {})["scenario"]["bus"]["reconnections"] >= 1


def test_a_servo_that_lets_go_ends_the_run_with_the_drivers_word(stage: Stage) -> None:
    runner = stage.run(lambda: stage.emulator.fault("overload servo=2") and None, 20.0)
    (result,) = runner.results
    assert not runner.completed
    assert result.reason.startswith("robot: shoulder_lift (servo 2) reports overload")
    assert result.duration_s < 15.0
    assert list(stage.blackbox.iterdir())  # a fault leaves its last seconds


def test_a_real_arm_is_told_what_to_do(stage: Stage) -> None:
    with pytest.raises(InputError, match="give --task TEXT"):
        stage.scenario.begin(0, None)
    assert stage.scenario.begin(0, "fold the towel") == "fold the towel"


def test_an_arm_that_is_not_there_is_a_robot_error_and_nothing_stays_open(stage: Stage) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(RobotError, match="/dev/does-not-exist"):
        open_scenario(with_connection(stage.config, port="/dev/does-not-exist"))
    assert {thread.name for thread in threading.enumerate()} == before


def test_nothing_is_switched_on_where_a_camera_or_the_fit_is_missing(stage: Stage, tmp_path: Path) -> None:
    stage.scenario.close()
    blind = with_cameras(stage.config, [f"wrist={tmp_path / 'nothing.png'}"])
    too_fast = replace(stage.config, loop=replace(stage.config.loop, rate_hz=900.0))
    stage.scenario.robot.connect()
    stage.scenario.robot.configure()
    stage.scenario.robot.stop(StopPolicy.TORQUE_OFF)
    stage.scenario.robot.disconnect()
    for config, why in ((blind, r"nothing\.png"), (too_fast, "commands a second, loop.rate_hz is 900")):
        with pytest.raises((RobotError, InputError), match=why):
            open_scenario(config)
        assert _torque(stage) == dict.fromkeys(range(1, 7), 0)


def _torque(stage: Stage) -> dict[int, int]:
    from molmoact2_drivers.feetech import ServoBus

    with ServoBus(stage.emulator.address) as bus:
        return bus.read_many(range(1, 7), "torque_enable")
