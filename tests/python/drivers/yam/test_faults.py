"""Every fault that the emulated YAM can have, and the state of the driver that it ends in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from drivers.yam.arms import MOTOR_TIMEOUT_S, wait_until, yam
from emulators.processes import EmulatorProcess

from molmoact2_drivers.protocol import LifeCycle, StopPolicy
from molmoact2_drivers.yam import YamRobot
from molmoact2_edge.errors import RobotError

POSE = np.array([0.0, 60.0, 60.0, -30.0, 0.0, 0.0, 50.0])
AT_REST = 0.7

Arm = tuple[EmulatorProcess, YamRobot]


@pytest.fixture
def arm() -> Iterator[Arm]:
    """An arm that follows."""
    with yam() as (process, robot):
        robot.connect()
        robot.configure()
        robot.activate()
        yield process, robot


def errs(robot: YamRobot) -> bool:
    return wait_until(lambda: robot.life_cycle is LifeCycle.ERROR)


def comes_back(robot: YamRobot) -> None:
    """Recover, and go on."""

    def recovered() -> bool:
        try:
            robot.recover()
        except RobotError:
            return False
        return True

    assert wait_until(recovered)
    assert robot.life_cycle is LifeCycle.CONFIGURED
    assert robot.fault is None
    held = robot.read_state().positions
    robot.activate()
    assert robot.life_cycle is LifeCycle.ACTIVE
    time.sleep(0.2)
    np.testing.assert_allclose(robot.read_state().positions, held, atol=2.0)
    target = held + 4.0

    def reached() -> bool:
        robot.write_targets(target)
        return bool(np.abs(robot.read_state().positions - target).max() <= AT_REST)

    assert wait_until(reached)


@pytest.mark.parametrize(
    "line",
    [
        "drop probability=0.01",
        "corrupt probability=0.01",
        "duplicate probability=0.05",
        "delay probability=0.01 seconds=0.004",
    ],
)
def test_a_bad_line_is_lived_through(arm: Arm, line: str) -> None:
    process, robot = arm
    process.fault(line)
    # Two hundred commands, each a little further.
    for tick in range(200):
        robot.port().write(POSE + 0.05 * tick)
        time.sleep(0.004)
        assert robot.life_cycle is LifeCycle.ACTIVE, robot.fault
        state = robot.read_state()
        assert np.abs(state.positions - POSE).max() < 25.0  # what never was is not believed
        assert state.temperatures is not None
        assert state.temperatures.max() < 60.0
    process.fault(f"clear {line.split()[0]}")
    target = POSE + 10.0

    def reached() -> bool:
        robot.port().write(target)
        return bool(np.abs(robot.read_state().positions - target).max() <= AT_REST)

    assert wait_until(reached)


def test_a_motor_that_hears_nothing_freezes_the_time_then_is_an_error_and_recovers(arm: Arm) -> None:
    process, robot = arm
    process.fault("comm_loss motor=3")
    assert wait_until(lambda: robot.read_state().age_ns(time.monotonic_ns()) > 100_000_000)
    frozen = robot.read_state().time_ns
    time.sleep(0.05)
    assert (
        robot.read_state().time_ns == frozen
    )  # the others answer, and the state is as old as its oldest part
    assert errs(robot)
    assert robot.fault is not None
    assert "no feedback from joint_3" in robot.fault
    with pytest.raises(RobotError, match=r"joint_3 .* does not come back"):
        robot.recover()
    process.fault("clear comm_loss")
    comes_back(robot)


def test_a_motor_whose_link_was_lost_for_a_moment_says_that_it_brakes_by_itself(arm: Arm) -> None:
    process, robot = arm
    # Longer than the motor's timeout, shorter than the driver's patience with it, unless the computer is busy.
    process.fault(f"comm_loss motor=3 duration={MOTOR_TIMEOUT_S + 0.05}")
    assert errs(robot)
    assert robot.fault is not None
    assert "joint_3" in robot.fault
    comes_back(robot)


def test_an_absent_motor_is_an_error_and_comes_back_without_torque(arm: Arm) -> None:
    process, robot = arm
    process.fault("absent servo=5")
    assert errs(robot)
    assert robot.fault is not None
    assert "no feedback from joint_5" in robot.fault
    process.fault("clear absent")
    comes_back(robot)


def test_a_motor_that_lost_its_power_for_a_moment_is_an_error(arm: Arm) -> None:
    process, robot = arm
    process.fault("absent servo=5 duration=0.1")
    assert errs(robot)
    assert robot.fault is not None
    assert "joint_5 (motor 5" in robot.fault
    assert "has lost its torque" in robot.fault
    comes_back(robot)


def test_an_overloaded_motor_is_an_error_that_stays_as_long_as_its_cause(arm: Arm) -> None:
    process, robot = arm
    process.fault("overload servo=2")
    assert errs(robot)
    assert robot.fault is not None
    assert "joint_2 (motor 2" in robot.fault
    assert "overloaded (code E)" in robot.fault
    with pytest.raises(RobotError, match=r"joint_2 .* does not come back: it is overloaded"):
        robot.recover()
    assert robot.life_cycle is LifeCycle.ERROR
    process.fault("clear overload")
    comes_back(robot)


def test_a_warm_motor_is_told_a_hot_one_switches_itself_off(arm: Arm) -> None:
    process, robot = arm
    process.fault("overtemperature servo=4 celsius=85")

    def hottest() -> float:
        temperatures = robot.read_state().temperatures
        assert temperatures is not None
        return float(temperatures[3])

    assert wait_until(lambda: hottest() == 85.0)
    assert robot.life_cycle is LifeCycle.ACTIVE
    process.fault("overtemperature servo=4 celsius=120")
    assert errs(robot)
    assert robot.fault is not None
    assert "its rotor is too hot (code C)" in robot.fault
    process.fault("clear overtemperature")
    comes_back(robot)


def test_an_adapter_that_is_back_before_the_motors_time_out_is_no_error() -> None:
    with yam(timeout_s=5.0) as (process, robot):
        robot.connect()
        robot.configure()
        robot.activate()
        process.fault("unplug duration=0.3")
        assert wait_until(lambda: not robot.statistics()["buses"][0]["open"])
        assert not robot.port().write(POSE)
        assert wait_until(lambda: robot.port().write(POSE))
        assert robot.life_cycle is LifeCycle.ACTIVE, robot.fault


def test_an_adapter_that_is_gone_is_an_error_until_it_is_plugged_in_again(arm: Arm) -> None:
    process, robot = arm
    process.fault("unplug")
    assert errs(robot)
    assert robot.fault is not None
    assert f"the bus {process.address} is gone" in robot.fault
    assert "brake by themselves" in robot.fault
    with pytest.raises(RobotError, match="is gone"):
        robot.recover()
    robot.stop(StopPolicy.TORQUE_OFF)  # as far as the wire does: nothing to be heard, nothing raised
    process.fault("clear unplug")
    comes_back(robot)


def test_of_two_arms_the_one_that_is_there_is_held() -> None:
    with yam("--bimanual") as (process, robot):
        robot.connect()
        robot.configure()
        robot.activate()
        right = process.address.split()[1]
        process.fault("unplug_bus bus=2")
        assert errs(robot)
        assert robot.fault is not None
        assert f"the bus {right} is gone" in robot.fault
        motors = robot.statistics()["motors"]
        assert {motor["status"] for motor in motors[:7]} == {1}
        assert not any(motor["silent"] or motor["fault"] for motor in motors[:7])
        process.fault("clear unplug_bus")
        comes_back(robot)


def test_an_error_leaves_the_other_motors_where_they_are_and_stops_still_work(arm: Arm) -> None:
    process, robot = arm
    process.fault("overload servo=6")
    assert errs(robot)
    robot.stop(StopPolicy.DAMP)
    assert robot.life_cycle is LifeCycle.ERROR
    assert robot.statistics()["mode"] == "damp"
    robot.stop(StopPolicy.HOLD)
    time.sleep(0.2)
    assert {motor["status"] for motor in robot.statistics()["motors"][:5]} == {1}
    robot.disconnect()
    assert robot.life_cycle is LifeCycle.DISCONNECTED
