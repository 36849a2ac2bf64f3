"""The emulated arm's controller without sockets: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from molmoact2_emulators.fci_robot import LOST_MAX, EmulatedArm
from molmoact2_emulators.fci_wire import (
    CONNECT_REQUEST,
    ERRORS,
    FCI_V5,
    FCI_V10,
    HEADER,
    MOVE_ASYNC,
    MOVE_REQUEST,
    SETTER_SIZES,
    Controller,
    FciVersion,
    Generator,
    RobotCommand,
    RobotMode,
)
from molmoact2_emulators.franka_arm import FR3, PANDA, READY_POSE

ZERO = (0.0,) * 7
POSITION, VELOCITY, NO_GENERATOR = 0, 1, 4  # as a Move request numbers them
MOVE_ID = 41


class Bench:
    """An arm and the client's side of its protocol."""

    def __init__(self, version: FciVersion = FCI_V10) -> None:
        self.version = version
        self.arm = EmulatedArm(FR3 if version is FCI_V10 else PANDA, version)

    def ask(self, name: str, payload: bytes = b"", command_id: int = 1) -> list[tuple[str, int, bytes]]:
        """Send a request; returns the answers so far: command, id, payload."""
        self.arm.handle(self.version.commands.index(name), command_id, payload)
        return self.answers()

    def answers(self) -> list[tuple[str, int, bytes]]:
        data, found = self.arm.take_answers(), []
        while data:
            command, command_id, size = HEADER.unpack_from(data)
            found.append((self.version.commands[command], command_id, data[HEADER.size : size]))
            data = data[size:]
        return found

    def status(self, name: str, status: str) -> bytes:
        return self.version.status(name, status)

    def move(self, generator: int, controller: int = Controller.JOINT_IMPEDANCE) -> bytes:
        """Start a motion; returns the status."""
        payload = MOVE_REQUEST.pack(controller, generator, *[0.1] * 6)
        if self.version is FCI_V10:
            payload += MOVE_ASYNC.pack(False, *ZERO)
        ((_, _, status),) = self.ask("move", payload, MOVE_ID)
        return status

    def command(
        self,
        q: tuple[float, ...] = ZERO,
        dq: tuple[float, ...] = ZERO,
        tau: tuple[float, ...] = ZERO,
        finished: bool = False,
    ) -> None:
        self.arm.step(RobotCommand(0, q, dq, finished, tau, finished))

    def state(self) -> dict[str, object]:
        layout = self.version.state
        values = layout.struct.unpack(self.arm.state(1))
        modes = values[1 + layout.count :]
        errors = [name for name, on in zip(ERRORS, modes[2:43], strict=True) if on]
        reasons = [name for name, on in zip(ERRORS, modes[43:84], strict=True) if on]
        numbers = {name: values[1 : 1 + layout.count][place] for name, place in layout.places.items()}
        return {
            **numbers,
            "generator": modes[0],
            "controller": modes[1],
            "errors": errors,
            "reasons": reasons,
            "mode": modes[84],
            "rate": modes[85],
        }


def swing(joint: int, amplitude: float, cycles: int, k: int) -> tuple[float, ...]:
    """A smooth way out and back of one joint."""
    q = list(READY_POSE)
    q[joint] += amplitude * (1 - math.cos(2 * math.pi * min(k, cycles) / cycles)) / 2
    return tuple(q)


@pytest.mark.parametrize("version", [FCI_V10, FCI_V5], ids=["v10", "v5"])
def test_another_version_is_told_which_one_this_is(version: FciVersion) -> None:
    bench = Bench(version)
    ((_, _, good),) = bench.ask("connect", CONNECT_REQUEST.pack(version.number, 5000))
    ((_, _, bad),) = bench.ask("connect", CONNECT_REQUEST.pack(version.number - 1, 5000))
    assert good == bytes([0, version.number, 0])
    assert bad == bytes([1, version.number, 0])


@pytest.mark.parametrize("version", [FCI_V10, FCI_V5], ids=["v10", "v5"])
@pytest.mark.parametrize(
    ("generator", "controller", "shown"),
    [
        (POSITION, Controller.JOINT_IMPEDANCE, Generator.JOINT_POSITION),
        (POSITION, Controller.CARTESIAN_IMPEDANCE, Generator.JOINT_POSITION),
        (VELOCITY, Controller.JOINT_IMPEDANCE, Generator.JOINT_VELOCITY),
        (VELOCITY, Controller.CARTESIAN_IMPEDANCE, Generator.JOINT_VELOCITY),
        (POSITION, Controller.EXTERNAL, Generator.JOINT_POSITION),
        (VELOCITY, Controller.EXTERNAL, Generator.JOINT_VELOCITY),
        (NO_GENERATOR, Controller.EXTERNAL, Generator.NONE),
    ],
)
def test_a_motion_answers_twice_and_shows_its_modes(
    version: FciVersion, generator: int, controller: int, shown: int
) -> None:
    bench = Bench(version)
    assert bench.move(generator, controller) == bench.status("move", "motion_started")
    state = bench.state()
    assert (state["mode"], state["generator"], state["controller"]) == (RobotMode.MOVE, shown, controller)
    for _ in range(10):
        bench.command(q=READY_POSE)
    assert bench.answers() == []
    bench.command(q=READY_POSE, finished=True)
    assert bench.answers() == [("move", MOVE_ID, bench.status("move", "success"))]
    state = bench.state()
    assert (state["mode"], state["generator"], state["controller"]) == (
        RobotMode.IDLE,
        Generator.IDLE,
        Controller.OTHER,
    )


@pytest.mark.parametrize(
    ("generator", "controller"), [(2, 0), (3, 1), (NO_GENERATOR, 0), (2, Controller.EXTERNAL), (0, 3)]
)
def test_a_motion_that_is_not_emulated_is_refused(generator: int, controller: int) -> None:
    bench = Bench()
    assert bench.move(generator, controller) == bench.status("move", "invalid_argument")
    assert bench.state()["mode"] == RobotMode.IDLE


def test_positions_are_followed() -> None:
    bench = Bench()
    bench.move(POSITION)
    for k in range(1, 3001):
        bench.command(q=swing(3, 0.4, 3000, k))
        if k == 1500:
            q = bench.state()["q"]
            assert isinstance(q, tuple)
            assert q[3] == pytest.approx(READY_POSE[3] + 0.4, abs=1e-3)
    state = bench.state()
    assert state["errors"] == []
    assert state["rate"] == 1.0
    bench.command(q=READY_POSE, finished=True)
    assert bench.answers()[-1][2] == bench.status("move", "success")


def test_torques_accelerate_the_arm_and_its_end_brakes_it() -> None:
    bench = Bench()
    bench.move(NO_GENERATOR, Controller.EXTERNAL)
    for k in range(300):
        bench.command(tau=(*ZERO[:6], min(0.001 * k, 0.2)))
    state = bench.state()
    assert isinstance(state["dq"], tuple)
    assert state["dq"][6] > 0.05
    bench.command(tau=ZERO, finished=True)
    for _ in range(100):
        bench.arm.step(None)
    assert bench.answers() == [("move", MOVE_ID, bench.status("move", "success"))]
    assert bench.state()["dq_d"] == ZERO


Script = Callable[[Bench], None]


def jump_of_position(bench: Bench) -> None:
    bench.move(POSITION)
    bench.command(q=READY_POSE)
    bench.command(q=(READY_POSE[0] + 0.01, *READY_POSE[1:]))


def first_position_elsewhere(bench: Bench) -> None:
    bench.move(POSITION)
    bench.command(q=(READY_POSE[0] + 0.2, *READY_POSE[1:]))


def jerk_of_position(bench: Bench) -> None:
    bench.move(POSITION)
    q = READY_POSE[0]
    bench.command(q=READY_POSE)
    # 8 rad/s^2 from one millisecond to the next is within the acceleration and beyond the jerk.
    bench.command(q=(q + 8e-6, *READY_POSE[1:]))


def jump_of_velocity(bench: Bench) -> None:
    bench.move(VELOCITY)
    bench.command(dq=(0.5, *ZERO[1:]))


def jump_of_torque(bench: Bench) -> None:
    bench.move(NO_GENERATOR, Controller.EXTERNAL)
    bench.command(tau=(5.0, *ZERO[1:]))


def too_much_torque(bench: Bench) -> None:
    bench.move(NO_GENERATOR, Controller.EXTERNAL)
    for k in range(1, 20):
        bench.command(tau=(*ZERO[:4], 0.7 * k, 0.0, 0.0))


def torque_that_lasts(bench: Bench) -> None:
    bench.move(NO_GENERATOR, Controller.EXTERNAL)
    for k in range(1, 1000):
        bench.command(tau=(*ZERO[:6], min(0.5 * k, 3.0)))


def too_fast(bench: Bench) -> None:
    bench.move(VELOCITY)
    for k in range(1, 1000):
        bench.command(dq=(*ZERO[:6], 5e-4 * k * k if k < 9 else 9e-3 * (k - 4.5)))
        if bench.arm.mode != RobotMode.MOVE:
            return


def too_fast_near_the_end(bench: Bench) -> None:
    bench.move(VELOCITY)
    for k in range(1, 4000):
        bench.command(dq=(0.0, min(1e-3 * k, 1.2), *ZERO[2:]))
        if bench.arm.mode != RobotMode.MOVE:
            return


def end_while_moving(bench: Bench) -> None:
    bench.move(VELOCITY)
    for k in range(1, 200):
        bench.command(dq=(1e-3 * k, *ZERO[1:]))
    bench.command(dq=(0.2, *ZERO[1:]), finished=True)


def silence(bench: Bench) -> None:
    bench.move(POSITION)
    bench.command(q=READY_POSE)
    for _ in range(LOST_MAX):
        bench.arm.step(None)
    assert bench.arm.mode == RobotMode.MOVE
    bench.arm.step(None)


def nothing_at_all(bench: Bench) -> None:
    bench.move(POSITION)
    for _ in range(1001):
        bench.arm.step(None)


def not_a_number(bench: Bench) -> None:
    bench.move(POSITION)
    bench.command(q=(math.nan, *READY_POSE[1:]))


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (jump_of_position, "joint_motion_generator_velocity_discontinuity"),
        (first_position_elsewhere, "joint_position_motion_generator_start_pose_invalid"),
        (jerk_of_position, "joint_motion_generator_acceleration_discontinuity"),
        (jump_of_velocity, "joint_motion_generator_acceleration_discontinuity"),
        (jump_of_torque, "controller_torque_discontinuity"),
        (too_much_torque, "tau_j_range_violation"),
        (torque_that_lasts, "joint_velocity_violation"),
        (too_fast, "joint_motion_generator_velocity_limits_violation"),
        (too_fast_near_the_end, "joint_motion_generator_velocity_limits_violation"),
        (end_while_moving, "joint_motion_generator_acceleration_discontinuity"),
        (silence, "communication_constraints_violation"),
        (nothing_at_all, "communication_constraints_violation"),
        (not_a_number, "joint_motion_generator_position_limits_violation"),
    ],
)
def test_a_broken_limit_is_a_reflex_with_its_name_until_a_recovery(script: Script, error: str) -> None:
    bench = Bench()
    script(bench)
    assert bench.answers()[-1] == ("move", MOVE_ID, bench.status("move", "reflex_aborted"))
    state = bench.state()
    assert (state["mode"], state["errors"], state["reasons"]) == (RobotMode.REFLEX, [error], [error])
    assert bench.move(POSITION) == bench.status("move", "not_possible")
    assert bench.ask("automatic_error_recovery", command_id=7) == []
    assert bench.state()["mode"] == RobotMode.RECOVERY
    for _ in range(500):
        bench.arm.step(None)
    done = ("automatic_error_recovery", 7, bench.status("automatic_error_recovery", "success"))
    assert bench.answers() == [done]
    state = bench.state()
    assert (state["mode"], state["errors"], state["reasons"]) == (RobotMode.IDLE, [], [error])
    assert bench.move(POSITION) == bench.status("move", "motion_started")
    assert bench.state()["reasons"] == []


def test_a_reflex_brakes_within_the_arms_own_limits() -> None:
    bench = Bench()
    bench.move(VELOCITY)
    for k in range(1, 500):
        bench.command(dq=(1e-3 * k, *ZERO[1:]))
    speed = bench.arm.motion.dq_d[0]
    assert speed == pytest.approx(0.499)
    bench.arm.fail("joint_reflex")
    while bench.arm.motion.dq_d[0] > 0.0:
        bench.arm.step(None)
        assert speed - bench.arm.motion.dq_d[0] <= FR3.acceleration[0] * 1e-3 + 1e-12
        speed = bench.arm.motion.dq_d[0]


def test_few_lost_commands_are_made_up_for() -> None:
    bench = Bench()
    bench.move(POSITION)
    for k in range(1, 1001):
        lost = k % 50 < 3 and k > 100
        if lost:
            bench.arm.step(None)
        else:
            bench.command(q=swing(0, 0.05, 3000, k))
    state = bench.state()
    assert state["errors"] == []
    assert state["rate"] == pytest.approx(0.94)


def test_a_stop_ends_the_motion_as_preempted() -> None:
    bench = Bench()
    bench.move(POSITION)
    bench.command(q=READY_POSE)
    assert bench.ask("stop_move", command_id=9) == [
        ("move", MOVE_ID, bench.status("move", "preempted")),
        ("stop_move", 9, bench.status("stop_move", "success")),
    ]
    assert bench.state()["mode"] == RobotMode.IDLE


def test_the_user_stop_ends_the_motion_and_takes_none_until_it_is_released() -> None:
    bench = Bench()
    bench.move(POSITION)
    bench.command(q=READY_POSE)
    bench.arm.press_user_stop()
    assert bench.answers() == [("move", MOVE_ID, bench.status("move", "emergency_aborted"))]
    assert bench.state()["mode"] == RobotMode.USER_STOPPED
    assert bench.move(POSITION) == bench.status("move", "not_possible")
    ((_, _, status),) = bench.ask("automatic_error_recovery")
    assert status == bench.status("automatic_error_recovery", "emergency_aborted")
    bench.arm.release_user_stop()
    assert bench.move(POSITION) == bench.status("move", "motion_started")


@pytest.mark.parametrize("name", [name for name in FCI_V5.commands if name in SETTER_SIZES])
def test_settings_of_the_right_size_are_taken(name: str) -> None:
    bench = Bench(FCI_V5)
    ((_, _, status),) = bench.ask(name, bytes(SETTER_SIZES[name]))
    assert status == bench.status(name, "success")
    ((_, _, status),) = bench.ask(name, bytes(SETTER_SIZES[name] - 1))
    assert status == bench.status(name, "invalid_argument")


def test_a_client_that_leaves_stops_the_arm() -> None:
    bench = Bench()
    bench.move(POSITION)
    bench.command(q=READY_POSE)
    bench.arm.abandon()
    assert bench.answers() == []
    assert not bench.arm.moving
    assert bench.move(POSITION) == bench.status("move", "motion_started")
