"""The robot of DROID, a Franka with a Robotiq 2F-85: both emulated, one driver, driven by the control loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drivers.franka.conftest import needs
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers import LifeCycle, StopPolicy
from molmoact2_drivers.franka import FrankaRobot
from molmoact2_drivers.franka.arm_memory import FOLLOWING, READING
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.control import ControlLoop
from molmoact2_edge.errors import RobotError
from molmoact2_edge.hil import Checklist, Verdict
from molmoact2_edge.hil.arm import ArmUnderTest
from molmoact2_edge.hil.emulated import emulated
from molmoact2_edge.hil.fault_cases import FaultCase, robotiq_faults
from molmoact2_edge.hil.faults import FaultChecks
from molmoact2_edge.hil.motion import Feeder, Motion, Poses, stand
from molmoact2_edge.processor import joint_convention
from molmoact2_edge.runtime.hardware import make_robot
from molmoact2_edge.runtime.hardware_fit import require_fit, within_reach

pytestmark = needs("pylibfranka")

_PATIENCE_S = 30.0
_GRIPPER = 7
_ON_THE_WAY_S = 3.0
_GRIPPER_TOLERANCE = 0.01  # of its way: a count is 1/225 of it
_ARM_TOLERANCE = 0.002  # rad
_HOLD_S = 0.25
_FAULTS = robotiq_faults(_HOLD_S, emulator=1)


def eventually(holds: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def gripper() -> Iterator[EmulatorProcess]:
    with emulator("robotiq", "--seed", "3") as process:
        yield process


@pytest.fixture
def config(arm: EmulatorProcess, gripper: EmulatorProcess, tmp_path: Path) -> RobotConfig:
    """As a person writes it who has such a robot; patient, as the emulators share a busy computer with their tests."""
    path = tmp_path / "droid.yaml"
    path.write_text(
        "extends: franka-droid\nname: droid\nloop: {silence_hold_s: 0.4, silence_fault_s: 20}\n"
        f"connection: {{port: {arm.address}, gripper: robotiq, gripper_port: {gripper.address}}}\n"
    )
    return load_robot(path)


@pytest.fixture
def robot(config: RobotConfig) -> Iterator[FrankaRobot]:
    """Active."""
    robot = make_robot(config)
    assert isinstance(robot, FrankaRobot)
    try:
        robot.connect()
        robot.configure()
        require_fit(config, robot)
        robot.activate()
        yield robot
    finally:
        robot.disconnect()


@contextmanager
def following(config: RobotConfig, robot: FrankaRobot, motion: Motion) -> Iterator[ControlLoop]:
    """The loop of a run of this configuration, fed with a motion at the rate of DROID's chunks."""
    within = within_reach(config, robot.capabilities)
    loop = ControlLoop(
        robot.port(),
        within.limits(),
        rate_hz=config.loop.rate_hz,
        chunk_rate_hz=config.chunk.rate_hz,
        mode=config.chunk.mode,
        blend_steps=round(config.chunk.blend_s * config.loop.rate_hz),
        resampling=config.chunk.resampling,
        silence_hold_s=config.loop.silence_hold_s,
        silence_fault_s=config.loop.silence_fault_s,
        start_speed=config.loop.start_speed,
        start_distance_max=config.start_distances(),
        telemetry_capacity=20_000,
    )
    loop.start()
    try:
        with Feeder(loop, motion):
            yield loop
    finally:
        loop.stop()


def in_droids_units(robot: FrankaRobot) -> Poses:
    """The measured pose as DROID's checkpoint is given it: rad, and 1 for a closed gripper."""
    convention = joint_convention("franka_droid")
    assert convention is not None
    return np.asarray(convention.to_model(robot.read_state().positions), dtype=np.float64)


def way_to(robot: FrankaRobot, goal: Poses) -> Motion:
    """Even motion from here to a goal (8,) in DROID's units."""
    convention = joint_convention("franka_droid")
    assert convention is not None
    start = in_droids_units(robot)

    def motion(times: Poses) -> Poses:
        share = np.clip(times / _ON_THE_WAY_S, 0.0, 1.0)[:, None]
        return np.asarray(convention.from_model(start + share * (goal - start)), dtype=np.float64)

    return motion


def is_at(robot: FrankaRobot, goal: Poses) -> bool:
    off = np.abs(in_droids_units(robot) - goal)
    return bool(off[:_GRIPPER].max() < _ARM_TOLERANCE and off[_GRIPPER] < _GRIPPER_TOLERANCE)


def phase(robot: FrankaRobot) -> int:
    assert robot._client is not None
    state = robot._client.read()
    assert state is not None
    return state.phase


def usable(robot: FrankaRobot) -> bool:
    """Whether arm and gripper follow targets."""
    if robot.life_cycle is LifeCycle.CONFIGURED:
        robot.activate()
    goal = robot.read_state().positions.copy()
    goal[0] += 2.0
    goal[_GRIPPER] = 30.0 if goal[_GRIPPER] > 50.0 else 70.0
    robot.write_targets(goal)
    return eventually(lambda: bool(np.abs(robot.read_state().positions - goal).max() < 0.5))


def recovers(robot: FrankaRobot) -> bool:
    try:
        robot.recover()
    except RobotError:
        return False
    return True


def test_arm_and_gripper_follow_chunks_at_droids_rate_in_droids_units(
    config: RobotConfig, robot: FrankaRobot
) -> None:
    assert config.chunk.rate_hz == 15.0
    pose = in_droids_units(robot)
    # It has opened and closed once to find its ends, and stays open until it is told something.
    assert pose[_GRIPPER] == pytest.approx(0.0, abs=_GRIPPER_TOLERANCE)
    for closed, by in ((1.0, 0.12), (0.25, -0.08)):
        goal = pose.copy()
        goal[[0, 3, 5]] += by
        goal[_GRIPPER] = closed
        with following(config, robot, way_to(robot, goal)) as loop:
            assert eventually(lambda goal=goal: is_at(robot, goal)), in_droids_units(robot) - goal
            records = loop.records().records
        assert loop.statistics()["executed_steps"] >= 15 * _ON_THE_WAY_S / 2
        # It went with the arm, and did not jump to its end.
        assert len({round(float(record["measured"][_GRIPPER])) for record in records}) > 10
        assert robot.fault is None
    robot.stop(StopPolicy.HOLD)
    assert robot.life_cycle is LifeCycle.CONFIGURED
    assert eventually(lambda: phase(robot) == READING)
    assert in_droids_units(robot)[_GRIPPER] == pytest.approx(0.25, abs=_GRIPPER_TOLERANCE)


def test_the_newest_of_many_targets_reaches_the_gripper(robot: FrankaRobot) -> None:
    goal = robot.read_state().positions.copy()
    for percent in np.linspace(100.0, 40.0, 50):
        goal[_GRIPPER] = percent
        robot.write_targets(goal)
    assert eventually(lambda: abs(robot.read_state().positions[_GRIPPER] - 40.0) < 0.5)


def test_a_target_beyond_the_grippers_ends_is_its_end(robot: FrankaRobot) -> None:
    goal = robot.read_state().positions.copy()
    for percent, end in ((-3.0, 0.0), (104.0, 100.0)):
        goal[_GRIPPER] = percent
        robot.write_targets(goal)
        assert eventually(lambda end=end: abs(robot.read_state().positions[_GRIPPER] - end) < 0.5)
    assert robot.life_cycle is LifeCycle.ACTIVE


def test_a_robotiq_unplugged_for_a_moment_is_waited_for(
    config: RobotConfig, robot: FrankaRobot, gripper: EmulatorProcess
) -> None:
    goal = in_droids_units(robot)
    goal[0] += 0.1
    goal[_GRIPPER] = 0.8
    with following(config, robot, way_to(robot, goal)) as loop:
        assert eventually(lambda: loop.statistics()["executed_steps"] > 5)
        gripper.fault("unplug duration=0.3")
        assert eventually(lambda: is_at(robot, goal))
    assert robot.life_cycle is LifeCycle.ACTIVE
    assert robot.fault is None


def test_a_robotiq_that_is_gone_holds_the_arm_and_is_an_error_until_it_is_plugged_in(
    config: RobotConfig, robot: FrankaRobot, gripper: EmulatorProcess
) -> None:
    process = robot.arm_process_id
    pose = robot.read_state().positions.copy()
    with following(config, robot, stand(pose)) as loop:
        assert eventually(lambda: loop.statistics()["executed_steps"] > 5)
        gripper.fault("unplug")

        def held() -> bool:
            last = loop.last_record()
            return last is not None and (last["state"], last["reason"]) == ("holding", "state_stale")

        assert eventually(held)
        assert eventually(lambda: robot.life_cycle is LifeCycle.ERROR)
        assert robot.fault is not None
        assert "robotiq" in robot.fault
        assert "unplugged" in robot.fault
        assert "driver's own thread" not in robot.fault
        failed = loop.statistics()["write_failures"]
        assert eventually(lambda: loop.statistics()["write_failures"] > failed)
    # The arm itself is well: its process goes on, its controller holds it, and a stop still reaches it.
    assert robot.arm_process_id == process
    assert phase(robot) == FOLLOWING
    robot.stop(StopPolicy.HOLD)
    assert eventually(lambda: phase(robot) == READING)
    with pytest.raises(RobotError, match="cannot open"):
        robot.recover()
    assert robot.life_cycle is LifeCycle.ERROR
    gripper.fault("clear unplug")
    assert eventually(lambda: recovers(robot))
    assert robot.arm_process_id == process
    assert usable(robot)


def test_a_stop_reaches_the_arm_whatever_the_gripper_says(
    robot: FrankaRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses() -> None:
        raise RobotError("made up")

    monkeypatch.setattr(robot._gripper, "stop", refuses)
    assert phase(robot) == FOLLOWING
    robot.stop(StopPolicy.HOLD)
    assert robot.life_cycle is LifeCycle.CONFIGURED
    assert eventually(lambda: phase(robot) == READING)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("power_loss servo=9 duration=0.3", "lost its activation"),
        ("overload servo=9 duration=0.3", "current is too high"),
        ("absent servo=9 duration=2.5", "does not answer"),
    ],
)
def test_a_fault_of_a_robotiq_is_the_robots_and_leaves_the_arms_process_alone(
    robot: FrankaRobot, gripper: EmulatorProcess, fault: str, says: str
) -> None:
    process = robot.arm_process_id
    gripper.fault(fault)
    assert eventually(lambda: robot.life_cycle is LifeCycle.ERROR)
    assert robot.fault is not None
    assert says in robot.fault
    assert "driver's own thread" not in robot.fault
    robot.stop(StopPolicy.HOLD)
    assert eventually(lambda: recovers(robot))
    assert robot.arm_process_id == process
    assert usable(robot)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultChecks]:
    """The arm as `molmoact2-edge hil --emulate` tests it."""
    shipped = load_robot("franka-droid")
    patient = replace(
        shipped,
        loop=replace(shipped.loop, silence_hold_s=_HOLD_S),
        connection={**shipped.connection, "gripper": "robotiq"},
    )
    with emulated(patient, tmp_path_factory.mktemp("arm")) as emulation:
        robot = make_robot(emulation.config)
        robot.connect()
        robot.configure()
        arm = ArmUnderTest(robot, within_reach(emulation.config, robot.capabilities), emulation.processes)
        yield FaultChecks(arm, Checklist(print))
        robot.disconnect()


@pytest.mark.parametrize("case", _FAULTS, ids=[case.name for case in _FAULTS])
def test_a_fault_of_the_gripper_ends_as_promised(checks: FaultChecks, case: FaultCase) -> None:
    check = checks.run(case)
    assert check.verdict is Verdict.PASSED, (check.reasons, check.figures)


def test_without_its_gripper_nothing_is_switched_on(config: RobotConfig) -> None:
    nowhere = {**config.connection, "gripper_port": "/dev/does-not-exist"}
    robot = make_robot(replace(config, connection=nowhere))
    assert isinstance(robot, FrankaRobot)
    with pytest.raises(RobotError, match="cannot open"):
        robot.connect()
    assert robot.life_cycle is LifeCycle.DISCONNECTED
    assert robot.arm_process_id is None
