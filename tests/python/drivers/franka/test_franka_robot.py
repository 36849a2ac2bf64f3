"""The driver on the emulated arm: life cycle, motion, and every fault's end in a state with a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from drivers.franka.conftest import Make, configuration, needs
from emulators.fci_client import PATIENT, own_address
from emulators.processes import EmulatorProcess, emulator

from molmoact2_drivers import LifeCycle, Robot, StopPolicy
from molmoact2_drivers.franka import FrankaRobot, from_config
from molmoact2_drivers.franka.arm_memory import DAMPING, FOLLOWING, READING
from molmoact2_edge.errors import InputError, RobotError

pytestmark = needs("pylibfranka")

_PATIENCE_S = 30.0


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true before it is hopeless."""
    give_up = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def robot(arm: EmulatorProcess, make: Make) -> FrankaRobot:
    """Active."""
    robot = make(arm.address)
    robot.connect()
    robot.configure()
    robot.activate()
    return robot


def phase(robot: FrankaRobot) -> int:
    assert robot._client is not None
    state = robot._client.read()
    assert state is not None
    return state.phase


def broken(robot: FrankaRobot, word: str) -> bool:
    """Whether the robot comes to ERROR with a reason that has that word."""
    assert eventually(lambda: robot.life_cycle is LifeCycle.ERROR), robot.life_cycle
    assert robot.fault is not None
    assert word in robot.fault, robot.fault
    return True


def usable(robot: FrankaRobot) -> bool:
    """Whether the arm follows targets."""
    if robot.life_cycle is LifeCycle.CONFIGURED:
        robot.activate()
    goal = robot.read_state().positions.copy()
    goal[0] += 3.0
    robot.write_targets(goal)
    return eventually(lambda: abs(robot.read_state().positions[0] - goal[0]) < 0.1)


def test_it_goes_through_its_life(arm: EmulatorProcess, make: Make) -> None:
    robot = make(arm.address)
    assert isinstance(robot, Robot)
    assert robot.life_cycle is LifeCycle.DISCONNECTED
    with pytest.raises(RobotError, match="is disconnected, but must be"):
        robot.read_state()
    robot.connect()
    assert robot.life_cycle is LifeCycle.CONNECTED
    state = robot.read_state()
    assert state.positions == pytest.approx([0, -45, 0, -135, 0, 90, 45, 50], abs=0.01)
    assert 0 <= state.age_ns(time.monotonic_ns()) < _PATIENCE_S * 1e9
    with pytest.raises(RobotError, match="must be configured"):
        robot.activate()
    robot.configure()
    assert phase(robot) == READING
    robot.activate()
    assert robot.life_cycle is LifeCycle.ACTIVE
    assert phase(robot) == FOLLOWING
    with pytest.raises(InputError, match="eight finite"):
        robot.write_targets([1.0] * 7)
    robot.stop(StopPolicy.HOLD)
    assert robot.life_cycle is LifeCycle.CONFIGURED
    robot.disconnect()
    assert robot.life_cycle is LifeCycle.DISCONNECTED


def test_targets_are_reached_and_the_gripper_follows(robot: FrankaRobot) -> None:
    goal = np.array([10.0, -40.0, 5.0, -125.0, -8.0, 95.0, 50.0, 80.0])
    robot.write_targets(goal)
    assert eventually(lambda: bool(np.abs(robot.read_state().positions - goal).max() < 0.1))
    assert robot.fault is None
    assert eventually(lambda: robot.success_rate == 1.0)


def test_the_loops_commands_arrive_through_the_port(robot: FrankaRobot) -> None:
    from molmoact2_edge.control import ControlLoop

    config = configuration("unused")
    start = robot.read_state().positions
    loop = ControlLoop(
        robot.port(),
        config.limits(),
        rate_hz=config.loop.rate_hz,
        chunk_rate_hz=config.chunk.rate_hz,
        silence_hold_s=_PATIENCE_S,
        silence_fault_s=_PATIENCE_S,
        start_distance_max=config.start_distances(),
    )
    loop.start()
    try:
        goal = start.copy()
        goal[3] += 4.0
        chunk = np.tile(goal, (30, 1)).astype(np.float32)
        assert eventually(lambda: loop.observation_at(time.monotonic_ns()) is not None)
        observation = loop.observation_at(time.monotonic_ns())
        assert observation is not None
        loop.push(chunk, observation)
        assert eventually(lambda: bool(np.abs(robot.read_state().positions - goal).max() < 0.1))
    finally:
        loop.stop()


def test_commands_that_nobody_carries_out_are_refused_at_the_port(
    arm: EmulatorProcess, robot: FrankaRobot
) -> None:
    from molmoact2_edge.control import ControlLoop

    config = configuration("unused")
    loop = ControlLoop(
        robot.port(), config.limits(), rate_hz=100.0, silence_hold_s=0.1, silence_fault_s=_PATIENCE_S
    )
    loop.start()
    try:
        assert eventually(lambda: loop.statistics()["write_failures"] == 0 and loop.ticks > 20)
        arm.fault("reflex")
        assert broken(robot, "joint_reflex")
        assert eventually(lambda: loop.statistics()["write_failures"] > 0)
    finally:
        loop.stop()


def test_states_keep_the_time_at_which_they_came(robot: FrankaRobot) -> None:
    seen = [robot.read_state()]
    assert eventually(lambda: robot.read_state().time_ns > seen[0].time_ns)
    pid = robot.arm_process_id
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.1)
        stuck = robot.read_state()
        time.sleep(0.3)
        assert robot.read_state().time_ns == stuck.time_ns
        assert stuck.age_ns(time.monotonic_ns()) >= 300_000_000
    finally:
        os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: robot.read_state().time_ns > stuck.time_ns)


def test_stop_policies_brake_and_then_hold_or_give_way(robot: FrankaRobot) -> None:
    goal = robot.read_state().positions.copy()
    goal[0] += 40.0
    robot.write_targets(goal)
    assert eventually(lambda: robot.read_state().positions[0] > 5.0)
    robot.stop(StopPolicy.HOLD)
    held = robot.read_state().positions[0]
    assert held < 40.0
    assert eventually(lambda: phase(robot) == READING)
    robot.stop(StopPolicy.DAMP)
    assert eventually(lambda: phase(robot) == DAMPING)
    assert robot.life_cycle is LifeCycle.CONFIGURED
    robot.stop(StopPolicy.TORQUE_OFF)
    assert eventually(lambda: phase(robot) == READING)
    assert robot.fault is None
    assert usable(robot)


def test_an_arm_outside_its_limits_is_not_moved_but_goes_on_afterwards(make: Make) -> None:
    pose = ["0", "0", "0", "-0.16", "0", "1.6", "0"]
    with emulator("fr3", "--address", own_address(), *PATIENT, "--pose", *pose) as arm:
        robot = make(arm.address)
        robot.connect()
        robot.configure()
        with pytest.raises(RobotError, match=r"joint 4 stands at .* by hand"):
            robot.activate()
        assert robot.life_cycle is LifeCycle.CONFIGURED
        assert eventually(lambda: phase(robot) == READING)
        robot.stop(StopPolicy.DAMP)
        assert eventually(lambda: phase(robot) == DAMPING)


def test_a_fault_of_the_drivers_own_thread_is_an_error(
    robot: FrankaRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("made up")

    monkeypatch.setattr(robot, "_publish", fails)
    assert broken(robot, "ValueError: made up")
    monkeypatch.undo()
    robot.recover()
    assert usable(robot)


def test_a_stop_of_a_robot_in_error_does_what_it_can(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    robot._gripper.disconnect()  # the arm goes on, and its gripper is gone
    robot._gripper._fault = "made up"  # type: ignore[attr-defined]
    assert broken(robot, "made up")
    assert phase(robot) == FOLLOWING
    robot.stop(StopPolicy.HOLD)
    assert robot.life_cycle is LifeCycle.ERROR
    assert eventually(lambda: phase(robot) == READING)
    robot.recover()
    assert usable(robot)
    arm.fault("reflex")
    assert broken(robot, "joint_reflex")
    robot.stop(StopPolicy.DAMP)
    assert robot.life_cycle is LifeCycle.ERROR


def test_targets_from_before_a_motion_are_not_followed(robot: FrankaRobot) -> None:
    goal = robot.read_state().positions.copy()
    goal[0] += 40.0
    robot.write_targets(goal)
    robot.stop(StopPolicy.HOLD)
    before = robot.read_state().positions[0]
    robot.activate()
    time.sleep(0.3)
    assert robot.read_state().positions[0] == pytest.approx(before, abs=1.0)


def test_a_reflex_is_an_error_with_its_name_until_it_is_recovered(
    arm: EmulatorProcess, robot: FrankaRobot
) -> None:
    arm.fault("reflex")
    assert broken(robot, "joint_reflex")
    assert "clear its way" in str(robot.fault)
    with pytest.raises(RobotError, match="is error"):
        robot.read_state()
    robot.recover()
    assert robot.life_cycle is LifeCycle.CONFIGURED
    assert robot.fault is None
    assert usable(robot)


def test_a_reflex_of_an_arm_that_stands_is_an_error_too(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    robot.stop(StopPolicy.HOLD)
    arm.fault("reflex")
    assert broken(robot, "cartesian_reflex")
    robot.recover()
    assert usable(robot)


def test_too_many_lost_packets_are_an_error(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    arm.fault("lost_packets probability=0.97")
    assert broken(robot, "communication_constraints_violation")
    arm.fault("clear lost_packets")
    robot.recover()
    assert usable(robot)


def test_a_few_lost_packets_are_nothing(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    arm.fault("lost_packets probability=0.02")
    assert usable(robot)
    assert robot.life_cycle is LifeCycle.ACTIVE


def test_late_states_are_nothing(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    arm.fault("delay probability=0.05 seconds=0.003")
    assert usable(robot)
    assert robot.life_cycle is LifeCycle.ACTIVE


def test_the_user_stop_is_an_error_until_it_is_released(arm: EmulatorProcess, robot: FrankaRobot) -> None:
    arm.fault("user_stop")
    assert broken(robot, "release the stop on the arm")
    with pytest.raises(RobotError, match="release the stop on the arm"):
        robot.recover()
    assert robot.life_cycle is LifeCycle.ERROR
    arm.fault("clear user_stop")
    assert eventually(lambda: recovers(robot))
    assert usable(robot)


def recovers(robot: FrankaRobot) -> bool:
    try:
        robot.recover()
    except RobotError:
        return False
    return True


def test_a_closed_connection_is_an_error_that_a_new_one_mends(
    arm: EmulatorProcess, robot: FrankaRobot
) -> None:
    process = robot.arm_process_id
    arm.fault("tcp_close")
    assert eventually(lambda: robot.life_cycle is LifeCycle.ERROR)
    assert robot.fault
    with pytest.raises(RobotError):
        robot.recover()
    arm.fault("clear tcp_close")
    assert eventually(lambda: recovers(robot))
    assert robot.arm_process_id != process
    assert usable(robot)


def test_a_killed_process_is_an_error_that_a_new_one_mends(robot: FrankaRobot) -> None:
    pid = robot.arm_process_id
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert broken(robot, "ended with code -9")
    robot.recover()
    assert usable(robot)


def test_a_process_that_hangs_is_killed(robot: FrankaRobot) -> None:
    pid = robot.arm_process_id
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert broken(robot, "hung")
    robot.recover()
    assert robot.arm_process_id != pid
    assert not _runs(pid)
    assert usable(robot)


def test_nothing_is_left_behind(arm: EmulatorProcess, make: Make) -> None:
    before = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        robot = make(arm.address)
        robot.connect()
        robot.configure()
        robot.activate()
        pid = robot.arm_process_id
        robot.disconnect()
        assert pid is not None
        assert not _runs(pid)
    assert set(threading.enumerate()) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_arms_process_ends_with_a_control_process_that_is_killed(arm: EmulatorProcess) -> None:
    code = (
        "import sys; from molmoact2_drivers.franka import from_config\n"
        "from drivers.franka.conftest import configuration\n"
        f"robot = from_config(configuration({arm.address!r})); robot.connect(); robot.configure(); robot.activate()\n"
        "print(robot.arm_process_id, flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as control:
        assert control.stdout is not None
        pid = int(control.stdout.readline())
        assert _runs(pid)
        control.kill()
    assert eventually(lambda: not _runs(pid))


def test_an_arm_that_is_not_there_is_said_at_once(make: Make) -> None:
    robot = make(own_address())
    with pytest.raises(RobotError, match="does not answer"):
        robot.connect()
    assert robot.life_cycle is LifeCycle.DISCONNECTED


def test_another_version_is_said(make: Make) -> None:
    with emulator("panda", "--address", own_address(), *PATIENT) as panda:
        robot = make(panda.address)
        with pytest.raises(RobotError, match=r"version.*5"):
            robot.connect()
        assert robot.life_cycle is LifeCycle.DISCONNECTED


@needs("panda_py")
def test_a_panda_is_driven_through_panda_python(make: Make) -> None:
    with emulator("panda", "--address", own_address(), *PATIENT) as panda:
        robot = make(panda.address, arm="panda")
        robot.connect()
        robot.configure()
        assert usable(robot)
        panda.fault("reflex")
        assert broken(robot, "joint_reflex")
        robot.recover()
        assert usable(robot)
        robot.stop(StopPolicy.DAMP)
        assert eventually(lambda: phase(robot) == DAMPING)
        robot.stop(StopPolicy.HOLD)
        assert eventually(lambda: phase(robot) == READING)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("port", None, "Give its address"),
        ("arm", "fr4", "fr3 or panda"),
        ("gripper", "robotiq", "serial port"),
        ("impedance", [1.0], "7 numbers"),
        ("speed", 3, "no such key"),
    ],
)
def test_a_wrong_connection_is_named(key: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_config(configuration("127.0.0.1", **{key: value}))


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
