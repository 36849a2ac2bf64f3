"""Unmodified clients do their work on the emulated arms: pylibfranka, franky, panda-python, each in its own process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest
from emulators.fci_client import PATIENT, own_address, run_client
from emulators.processes import EmulatorProcess, emulator

from molmoact2_emulators.franka_arm import compose, flange_pose, matrix


def _needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed (it has wheels for x86-64 only)")


@pytest.fixture
def fr3() -> Iterator[EmulatorProcess]:
    with emulator("fr3", "--address", own_address(), *PATIENT) as arm:
        yield arm


@pytest.fixture
def panda() -> Iterator[EmulatorProcess]:
    with emulator("panda", "--address", own_address(), *PATIENT) as arm:
        yield arm


_PYLIBFRANKA = """
import pylibfranka as pf

robot = pf.Robot(address, pf.RealtimeConfig.kIgnore)


def follow(active, command, seconds):
    time, first, last_state = 0.0, None, None
    while True:
        state, step = active.readOnce()
        first = first or state
        time += step.to_sec()
        answer = command(first, min(time, seconds))
        answer.motion_finished = time >= seconds
        active.writeOnce(answer)
        if answer.motion_finished:
            return state


def mode():
    # States that queued up while a command was waited for are read first.
    for _ in range(500):
        state = robot.read_once()
    return str(state.robot_mode)
"""


@_needs("pylibfranka")
def test_pylibfranka_moves_joints_by_position_velocity_and_torque(fr3: EmulatorProcess) -> None:
    said = run_client(
        _PYLIBFRANKA
        + """
joint = pf.ControllerMode.JointImpedance


def wave(first, t):
    q = list(first.q_d)
    q[3] += 0.1 * (1 - math.cos(math.pi * t))
    return pf.JointPositions(q)


state = follow(robot.start_joint_position_control(joint), wave, 1.0)
said["position"], said["rate"] = robot.read_once().q[3], state.control_command_success_rate


def push(first, t):
    return pf.JointVelocities([0.2 * math.sin(math.pi * t) ** 2, 0, 0, 0, 0, 0, 0])


follow(robot.start_joint_velocity_control(joint), push, 1.0)
said["velocity"] = robot.read_once().q[0]


def twist(first, t):
    return pf.Torques([0, 0, 0, 0, 0, 0, 0.3 * math.sin(2 * math.pi * t)])


follow(robot.start_torque_control(), twist, 0.5)
said["torque"] = robot.read_once().q[6]
said["mode"] = mode()
""",
        fr3.address,
    )
    assert said["position"] == pytest.approx(-2.3562 + 0.2, abs=2e-3)
    assert said["rate"] == 1.0
    assert said["velocity"] == pytest.approx(0.1, abs=2e-3)
    assert said["torque"] > 0.7854 + 0.05
    assert said["mode"] == "RobotMode.Idle"


@_needs("pylibfranka")
def test_pylibfranka_sees_a_reflex_by_its_name_and_recovers(fr3: EmulatorProcess) -> None:
    said = run_client(
        _PYLIBFRANKA
        + """
def jump():
    active = robot.start_joint_position_control(pf.ControllerMode.JointImpedance)
    for _ in range(100):
        state, _ = active.readOnce()
        q = list(state.q_d)
        q[0] += 0.01
        active.writeOnce(pf.JointPositions(q))


try:
    jump()
except pf.ControlException as error:
    said["error"] = str(error)
state = robot.read_once()
said["mode"], said["errors"] = str(state.robot_mode), str(state.current_errors)
said["flag"] = state.last_motion_errors.joint_motion_generator_velocity_discontinuity
try:
    robot.start_joint_position_control(pf.ControllerMode.JointImpedance)
except pf.CommandException as error:
    said["refused"] = str(error)
robot.automatic_error_recovery()
said["recovered"] = mode()
follow(
    robot.start_joint_position_control(pf.ControllerMode.JointImpedance),
    lambda first, t: pf.JointPositions(first.q_d),
    0.1,
)
said["moved"] = True
""",
        fr3.address,
    )
    assert "joint_motion_generator_velocity_discontinuity" in said["error"]
    assert said["mode"] == "RobotMode.Reflex"
    assert said["errors"] == '["joint_motion_generator_velocity_discontinuity"]'
    assert said["flag"]
    assert "Reflex" in said["refused"]
    assert said["recovered"] == "RobotMode.Idle"
    assert said["moved"]


@_needs("pylibfranka")
def test_pylibfranka_reads_settings_and_model_back(fr3: EmulatorProcess) -> None:
    said = run_client(
        _PYLIBFRANKA
        + """
identity = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
robot.set_collision_behavior([20.0] * 7, [20.0] * 7, [10.0] * 6, [10.0] * 6)
robot.set_joint_impedance([3000] * 7)
robot.set_cartesian_impedance([3000] * 3 + [300] * 3)
robot.set_EE([*identity[:14], 0.1, 1])
robot.set_K(identity)
robot.set_load(0.5, [0, 0, 0.1], [0.001] * 9)
for _ in range(50):
    state = robot.read_once()
said["height"], said["load"], said["sum"] = state.O_T_EE[14], state.m_load, state.m_total
model = robot.load_model()
said["gravity"] = list(model.gravity(state))
jacobian = model.zero_jacobian(state)
said["jacobian"] = [list(map(float, row)) for row in __import__("numpy").array(jacobian).reshape(7, 6)]
""",
        fr3.address,
    )
    # The hand points down: a tool 0.1 m longer ends 0.1 m lower.
    assert said["height"] == pytest.approx(0.48688 - 0.1, abs=1e-4)
    assert said["load"] == pytest.approx(0.5)
    assert said["sum"] == pytest.approx(0.73 + 0.5)
    # The upper arm leans back and the forearm reaches forward: joint 4 bears most, joint 1 nothing.
    assert said["gravity"][0] == pytest.approx(0.0, abs=1e-9)
    assert said["gravity"][3] > 5.0
    # Turning the base moves the tool sideways by its distance from the axis, about z.
    assert said["jacobian"][0] == pytest.approx([0.0, 0.30689, 0.0, 0.0, 0.0, 1.0], abs=1e-4)


@_needs("pylibfranka")
def test_pylibfranka_loses_packets_until_the_arm_stops(fr3: EmulatorProcess) -> None:
    fr3.fault("lost_packets probability=0.1")
    said = run_client(
        _PYLIBFRANKA
        + """
stand = lambda first, t: pf.JointPositions(first.q_d)
state = follow(robot.start_joint_position_control(pf.ControllerMode.JointImpedance), stand, 0.5)
said["rate"] = state.control_command_success_rate
""",
        fr3.address,
    )
    assert 0.5 < said["rate"] < 1.0
    said = {}
    fr3.fault("lost_packets probability=0.98")
    said = run_client(
        _PYLIBFRANKA
        + """
stand = lambda first, t: pf.JointPositions(first.q_d)
try:
    follow(robot.start_joint_position_control(pf.ControllerMode.JointImpedance), stand, 10.0)
except pf.ControlException as error:
    said["error"] = str(error)
""",
        fr3.address,
    )
    assert "communication_constraints_violation" in said["error"]


@_needs("pylibfranka")
def test_pylibfranka_drives_the_hand() -> None:
    with emulator("fr3", "--address", own_address(), "--object", "0.03", *PATIENT) as arm:
        said = run_client(
            """
import pylibfranka as pf

hand = pf.Gripper(address)
said["version"] = hand.server_version()
said["move"], said["width"] = hand.move(0.05, 0.1), hand.read_once().width
said["blocked"] = hand.move(0.01, 0.1)
said["grasp"], said["grasped"] = hand.grasp(0.03, 0.1, 20.0), hand.read_once().is_grasped
said["wrong"] = hand.grasp(0.06, 0.1, 20.0)
said["stop"] = hand.stop()
for _ in range(20):
    state = hand.read_once()
said["end"], said["max"] = state.width, state.max_width
""",
            arm.address,
        )
    assert said["version"] == 3
    assert said["move"]
    assert said["width"] == pytest.approx(0.05, abs=1e-3)
    assert not said["blocked"]
    assert said["grasp"]
    assert not said["wrong"]
    assert said["stop"]
    assert said["end"] == pytest.approx(0.03, abs=1e-3)
    assert said["max"] == pytest.approx(0.08)


# Seen once in a run of all tests: the second motion began with a jump in velocity. Whether franky lost
# milliseconds of its own then is not known, so only this failure is repeated, and every other one stands.
@pytest.mark.flaky(reruns=2, only_rerun="joint_motion_generator_velocity_discontinuity")
@_needs("franky")
def test_franky_moves_the_arm_and_the_hand_and_recovers(fr3: EmulatorProcess) -> None:
    said = run_client(
        """
import franky

robot = franky.Robot(address, realtime_config=franky.RealtimeConfig.Ignore)
robot.relative_dynamics_factor = 0.3
robot.recover_from_errors()
goal = [0.1, -0.7, 0.05, -2.3, 0.0, 1.5, 0.7]
robot.move(franky.JointMotion(franky.JointState(goal)))
said["reached"] = [float(q) for q in robot.current_joint_state.position]
robot.move(
    franky.JointVelocityWaypointMotion(
        [
            franky.JointVelocityWaypoint([0.2] + [0.0] * 6, hold_target_duration=franky.Duration(200)),
            franky.JointVelocityWaypoint([0.0] * 7),
        ]
    )
)
said["turned"] = float(robot.current_joint_state.position[0])
try:
    robot.move(franky.JointVelocityWaypointMotion([franky.JointVelocityWaypoint([0.2] + [0.0] * 6)]))
except franky.ControlException as error:
    said["error"] = str(error)
said["has_errors"] = robot.has_errors
said["recovered"] = robot.recover_from_errors()
robot.move(franky.JointMotion(franky.JointState(goal)))
said["again"] = [float(q) for q in robot.current_joint_state.position]
hand = franky.Gripper(address)
said["homing"], said["open"] = hand.homing(), hand.width
said["move"], said["width"] = hand.move(0.03, 0.1), hand.width
""",
        fr3.address,
    )
    goal = [0.1, -0.7, 0.05, -2.3, 0.0, 1.5, 0.7]
    assert said["reached"] == pytest.approx(goal, abs=2e-3)
    assert said["turned"] > 0.13
    assert "joint_motion_generator_acceleration_discontinuity" in said["error"]
    assert said["has_errors"]
    assert said["again"] == pytest.approx(goal, abs=2e-3)
    assert said["homing"]
    assert said["open"] == pytest.approx(0.08, abs=1e-3)
    assert said["move"]
    assert said["width"] == pytest.approx(0.03, abs=1e-3)


@_needs("panda_py")
def test_panda_python_reads_and_controls_torques_and_positions(panda: EmulatorProcess) -> None:
    said = run_client(
        """
from panda_py import libfranka

robot = libfranka.Robot(address, libfranka.RealtimeConfig.kIgnore)
state = robot.read_once()
said["version"], said["q"], said["mode"] = robot.server_version(), list(state.q), str(state.robot_mode)
said["x"] = state.O_T_EE[12]
clock = {"t": 0.0, "n": 0, "first": None}


def tick(state, step):
    clock["t"] += step.to_sec()
    clock["n"] += 1
    clock["first"] = clock["first"] or list(state.q_d)
    return min(clock["t"], 1.0), clock["t"] >= 1.0


def twist(state, step):
    t, last = tick(state, step)
    answer = libfranka.Torques([0, 0, 0, 0, 0, 0, 0.3 * math.sin(2 * math.pi * t)])
    answer.motion_finished = last
    return answer


robot.control(twist, limit_rate=True)
said["cycles"], said["turned"] = clock["n"], robot.read_once().q[6]
clock.update(t=0.0, first=None)


def wave(state, step):
    t, last = tick(state, step)
    q = list(clock["first"])
    q[3] += 0.1 * (1 - math.cos(math.pi * t))
    answer = libfranka.JointPositions(q)
    answer.motion_finished = last
    return answer


robot.control_joint_position(wave, limit_rate=False, cutoff_frequency=1000.0)
said["waved"] = robot.read_once().q[3]
hand = libfranka.Gripper(address)
said["homing"] = hand.homing()
""",
        panda.address,
    )
    assert said["version"] == 5
    assert said["q"][3] == pytest.approx(-2.35619, abs=1e-5)
    assert said["x"] == pytest.approx(0.30689, abs=1e-5)
    assert said["cycles"] >= 1000
    assert said["turned"] > 0.7854 + 0.02
    assert said["waved"] == pytest.approx(-2.35619 + 0.2, abs=2e-3)
    assert said["homing"]


@_needs("panda_py")
def test_panda_python_loads_the_model_and_moves_with_its_own_controllers(panda: EmulatorProcess) -> None:
    said = run_client(
        """
import panda_py
from panda_py import controllers

robot = panda_py.Panda(address)
goal = [0.1, -0.7, 0.0, -2.2, 0.0, 1.5, 0.7]
robot.move_to_joint_position(goal)
said["reached"] = [float(q) for q in robot.q]
controller = controllers.AppliedTorque()
robot.start_controller(controller)
with robot.create_context(frequency=100, max_runtime=0.5) as context:
    while context.ok():
        controller.set_control([0, 0, 0, 0, 0, 0, 0.2])
robot.stop_controller()
said["turned"] = float(robot.q[6])
start = robot.get_position()
robot.move_to_pose(start + [0, 0, 0.03], robot.get_orientation())
said["lifted"] = float(robot.get_position()[2] - start[2])
""",
        panda.address,
    )
    assert said["reached"] == pytest.approx([0.1, -0.7, 0.0, -2.2, 0.0, 1.5, 0.7], abs=0.01)
    assert said["turned"] > 0.71
    assert said["lifted"] == pytest.approx(0.03, abs=0.01)


_MODEL_STATE = """
q = [0.1, -0.5, 0.2, -2.0, 0.3, 1.7, 0.4]
dq = [0.5, -0.4, 0.3, 0.6, -0.7, 0.8, -0.9]
mass, centre = 1.3, [0.01, -0.02, 0.07]
inertia = [0.004, 0.0, 0.0, 0.0, 0.005, 0.0, 0.0, 0.0, 0.006]
tool = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0.02, 0.01, 0.1, 1]
identity = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
"""


@_needs("pylibfranka")
@_needs("panda_py")
def test_the_pandas_model_library_agrees_with_libfrankas_own_model_of_the_fr3(
    fr3: EmulatorProcess, panda: EmulatorProcess
) -> None:
    # The arms have the same links here. One model is ours; the other libfranka makes of the URDF.
    ours = run_client(
        _MODEL_STATE
        + """
from panda_py import libfranka

model = libfranka.Robot(address, libfranka.RealtimeConfig.kIgnore).load_model()
said["gravity"] = model.gravity(q, mass, centre)
said["coriolis"] = model.coriolis(q, dq, inertia, mass, centre)
said["mass"] = model.mass(q, inertia, mass, centre)
said["jacobian"] = model.zero_jacobian(libfranka.Frame.kEndEffector, q, tool, identity)
said["pose"] = model.pose(libfranka.Frame.kEndEffector, q, tool, identity)
said["body"] = model.body_jacobian(libfranka.Frame.kJoint5, q, tool, identity)
""",
        panda.address,
    )
    theirs = run_client(
        _MODEL_STATE
        + """
import numpy as np
import pylibfranka as pf

robot = pf.Robot(address, pf.RealtimeConfig.kIgnore)
model, state = robot.load_model(), robot.read_once()
state.q, state.dq, state.F_T_EE = q, dq, tool
state.m_total, state.F_x_Ctotal, state.I_total = mass, centre, inertia
for name in ("gravity", "coriolis", "mass"):
    said[name] = np.array(getattr(model, name)(state)).ravel().tolist()
said["jacobian"] = np.array(model.zero_jacobian(state)).ravel().tolist()
""",
        fr3.address,
    )
    for name, expected in theirs.items():
        assert ours[name] == pytest.approx(expected, abs=1e-5), name
    flange = flange_pose((0.1, -0.5, 0.2, -2.0, 0.3, 1.7, 0.4))
    tool = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.02, 0.01, 0.1)
    assert ours["pose"] == pytest.approx(matrix(compose(flange, tool)), abs=1e-9)
    # A joint's own axis is z in its own frame, and turns nothing that lies on it.
    assert ours["body"][24:30] == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], abs=1e-12)


@_needs("pylibfranka")
def test_a_client_of_another_version_is_turned_away(panda: EmulatorProcess) -> None:
    said = run_client(
        """
import pylibfranka as pf

try:
    pf.Robot(address, pf.RealtimeConfig.kIgnore)
except Exception as error:
    said["error"] = str(error)
""",
        panda.address,
    )
    assert "5" in said["error"]
    assert "10" in said["error"]


def test_a_second_arm_is_a_second_address_and_a_taken_one_is_refused() -> None:
    address = own_address()
    with (
        emulator("fr3", "--address", address) as first,
        emulator("panda", "--address", own_address()) as second,
    ):
        assert first.address == address != second.address
        command = "import sys; from molmoact2_edge.cli import main; sys.exit(main())"
        third = subprocess.run(
            [sys.executable, "-c", command, "emulate", "fr3", "--address", address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert third.returncode == 1
    assert third.stdout == ""
    assert "another emulator may have them" in third.stderr
