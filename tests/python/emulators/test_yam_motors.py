"""The emulated motors and their bus, in time that the tests give."""

from __future__ import annotations

import math

import pytest

from molmoact2_emulators.damiao_arm import (
    BIT_NS,
    DM4310,
    FAULTS,
    DamiaoArm,
    frame_bits,
    pose_radians,
    yam_motors,
)
from molmoact2_emulators.damiao_codec import (
    CLEAR_ERROR,
    COMMAND_PREFIX,
    DISABLE,
    ENABLE,
    READ,
    REFRESH,
    REGISTER_ID,
    SAVE,
    SET_ZERO,
    WRITE,
    CanFrame,
    MitCommand,
    float_of,
    pack_mit,
)
from molmoact2_emulators.damiao_motor import LINK_LOST, OVERLOAD, ROTOR_HOT, DamiaoMotor, Mechanics
from molmoact2_emulators.faults import FaultPlan

MS = 1_000_000


def motor(position: float = 0.0, timeout: int = 0) -> DamiaoMotor:
    return DamiaoMotor(4, DM4310, 10.0, Mechanics(0.03, 0.3, (-1.7, 1.6)), position, timeout)


def command(code: int, motor_id: int = 4) -> CanFrame:
    return CanFrame(motor_id, COMMAND_PREFIX + bytes([code]))


def mit(position: float, kp: float = 10.0, kd: float = 0.5, motor_id: int = 4) -> CanFrame:
    return CanFrame(motor_id, pack_mit(MitCommand(position, 0.0, kp, kd, 0.0), DM4310))


def about(action: int, register: int, value: int = 0, motor_id: int = 4) -> CanFrame:
    head = bytes([motor_id, 0, action, register])
    return CanFrame(REGISTER_ID, head + value.to_bytes(4, "little"))


def status_of(frame: CanFrame | None) -> int:
    assert frame is not None
    return frame.data[0] >> 4


def test_a_motor_follows_once_it_is_switched_on_and_not_before() -> None:
    arm = motor()
    arm.take(mit(0.5), 0.0)
    arm.step(1.0, 1.0, 0.0)
    assert arm.position == 0.0
    assert status_of(arm.take(command(ENABLE), 1.0)) == 1
    arm.take(mit(0.5), 1.0)
    arm.step(3.0, 2.0, 0.0)
    assert arm.position == pytest.approx(0.5, abs=0.01)
    assert status_of(arm.take(command(DISABLE), 3.0)) == 0


def test_a_weight_bends_a_joint_by_what_its_stiffness_gives_way() -> None:
    arm = motor()
    arm.take(command(ENABLE), 0.0)
    arm.take(mit(0.0, kp=20.0), 0.0)
    arm.step(3.0, 3.0, 1.0)
    assert arm.position == pytest.approx(-1.0 / 20.0, abs=0.002)


def test_without_commands_it_brakes_by_itself_and_stays_so_until_it_is_cleared() -> None:
    arm = motor(timeout=4000)  # 0.2 s
    arm.take(command(ENABLE), 0.0)
    arm.take(mit(0.5), 0.0)
    arm.step(0.19, 0.19, 0.0)
    assert status_of(arm.take(about(REFRESH, 0), 0.19)) == 1  # a question is no command
    arm.step(0.21, 0.02, 0.0)
    assert status_of(arm.take(about(REFRESH, 0), 0.21)) == LINK_LOST
    before = arm.position
    arm.step(1.21, 1.0, 1.0)  # a weight pulls: it sinks slowly
    assert before - 1.0 < arm.position < before - 0.1
    assert status_of(arm.take(command(ENABLE), 1.3)) == LINK_LOST
    assert status_of(arm.take(command(CLEAR_ERROR), 1.4)) == 0
    assert status_of(arm.take(command(ENABLE), 1.4)) == 1


def test_registers_are_read_written_and_kept_when_saved() -> None:
    arm = motor()
    answer = arm.take(about(READ, 21), 0.0)
    assert answer is not None
    assert answer.id == 0x14
    assert float_of(int.from_bytes(answer.data[4:], "little")) == 12.5
    assert arm.take(about(WRITE, 9, 4000), 0.0) == CanFrame(0x14, about(WRITE, 9, 4000).data)
    arm.power_cycle()
    answer = arm.take(about(READ, 9), 0.0)
    assert answer is not None
    assert answer.data[4:] == bytes(4)
    arm.take(about(WRITE, 9, 4000), 0.0)
    answer = arm.take(about(SAVE, 9), 0.0)
    assert answer is not None
    assert len(answer.data) == 4
    arm.power_cycle()
    answer = arm.take(about(READ, 9), 0.0)
    assert answer is not None
    assert int.from_bytes(answer.data[4:], "little") == 4000
    # The serial number is not to be written.
    before = arm.take(about(READ, 15), 0.0)
    arm.take(about(WRITE, 15, 1), 0.0)
    assert arm.take(about(READ, 15), 0.0) == before
    assert arm.take(about(READ, 200), 0.0) is None
    assert arm.take(about(READ, 21, motor_id=5), 0.0) is None


def test_zero_moves_the_scale_and_nothing_else() -> None:
    arm = motor(position=0.7)
    arm.take(command(SET_ZERO), 0.0)
    answer = arm.take(about(REFRESH, 0), 0.0)
    assert answer is not None
    assert abs(int.from_bytes(answer.data[1:3], "big") - 0x7FFF) <= 1
    assert arm.position == 0.7


def test_a_joint_ends_at_its_stops_whatever_pulls() -> None:
    arm = motor()
    arm.step(5.0, 5.0, 50.0)
    assert arm.position == -1.7
    assert arm.velocity == 0.0


def test_any_gains_are_stable() -> None:
    for kp, kd in ((500.0, 0.0), (500.0, 5.0), (0.0, 5.0)):
        arm = motor()
        arm.take(command(ENABLE), 0.0)
        arm.take(mit(1.0, kp, kd), 0.0)
        for tick in range(500):
            arm.step(tick * 0.01, 0.01, 0.0)
            assert math.isfinite(arm.position)
            assert -1.7 <= arm.position <= 1.6


# --- the bus ---


def bus(*lines: str) -> tuple[DamiaoArm, FaultPlan]:
    plan = FaultPlan(FAULTS, seed=5, clock=lambda: 0.0)
    for line in lines:
        plan.add(line)
    return DamiaoArm(yam_motors(pose_radians([0.0] * 6, 50.0, 6.57)), plan, 0), plan


def everything(arm: DamiaoArm) -> list[tuple[int, CanFrame]]:
    return arm.arrived(10**15)


def test_seven_commands_and_seven_answers_share_the_bus() -> None:
    arm, _ = bus()
    arm.send([mit(0.0, motor_id=number) for number in range(1, 8)], 0)
    arrivals = everything(arm)
    assert [frame.id for _, frame in arrivals] == [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]
    bits = frame_bits(arrivals[0][1])
    assert 111 <= bits <= 135
    # All commands first: their ids are the lower ones. Then the answers, back to back.
    assert arrivals[0][0] == 8 * bits * BIT_NS
    assert arrivals[-1][0] == 14 * bits * BIT_NS


def test_what_is_absent_does_not_answer_and_comes_back_without_torque() -> None:
    arm, plan = bus()
    arm.send([command(ENABLE, 2)], 0)
    assert status_of(everything(arm)[-1][1]) == 1
    plan.add("absent servo=2")
    arm.advance(10 * MS)
    arm.send([about(REFRESH, 0, motor_id=2)], 10 * MS)
    assert everything(arm) == []
    plan.add("clear absent")
    arm.advance(20 * MS)
    arm.send([about(REFRESH, 0, motor_id=2)], 20 * MS)
    assert status_of(everything(arm)[-1][1]) == 0


def test_who_hears_nothing_brakes_by_itself_and_says_so_afterwards() -> None:
    arm, plan = bus()
    arm.send([command(ENABLE, 3)], 0)
    plan.add("comm_loss motor=3")
    for tick in range(1, 50):
        arm.send([mit(0.0, motor_id=3)], tick * 10 * MS)
    assert len(everything(arm)) == 1
    plan.add("clear comm_loss")
    arm.send([about(REFRESH, 0, motor_id=3)], 600 * MS)
    assert status_of(everything(arm)[-1][1]) == LINK_LOST


@pytest.mark.parametrize(
    ("line", "status"), [("overload servo=5", OVERLOAD), ("overtemperature servo=5 celsius=120", ROTOR_HOT)]
)
def test_a_motor_in_trouble_switches_itself_off(line: str, status: int) -> None:
    arm, _ = bus(line)
    arm.send([command(ENABLE, 5)], 0)
    arm.advance(20 * MS)
    arm.send([about(REFRESH, 0, motor_id=5), about(REFRESH, 0, motor_id=4)], 30 * MS)
    answers = {frame.id: frame for _, frame in everything(arm)}
    assert status_of(answers[0x15]) == status
    assert status_of(answers[0x14]) == 0
    if status == ROTOR_HOT:
        assert answers[0x15].data[7] == 120


def test_warmth_below_the_motor_s_limit_is_only_told() -> None:
    arm, _ = bus("overtemperature servo=5 celsius=85")
    arm.send([command(ENABLE, 5)], 0)
    arm.advance(20 * MS)
    arm.send([about(REFRESH, 0, motor_id=5)], 30 * MS)
    answer = everything(arm)[-1][1]
    assert status_of(answer) == 1
    assert answer.data[7] == 85


def test_frames_are_dropped_doubled_and_late() -> None:
    arm, _ = bus("drop probability=1")
    arm.send([about(REFRESH, 0, motor_id=1)], 0)
    assert everything(arm) == []
    arm, _ = bus("duplicate probability=1")
    arm.send([about(REFRESH, 0, motor_id=1)], 0)
    first, second = everything(arm)
    assert first == second
    arm, _ = bus("delay probability=1 seconds=0.02")
    arm.send([about(REFRESH, 0, motor_id=1)], 0)
    assert arm.arrived(19 * MS) == []
    assert arm.next_arrival_ns() is not None
    assert len(arm.arrived(21 * MS)) == 1
