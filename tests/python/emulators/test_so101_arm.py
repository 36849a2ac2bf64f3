"""The emulated arm without its wire: mechanics, hands, faults at their time, what two processes tell each other."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_emulators import feetech_registers as reg
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.feetech_servo import Drive, Shaft, Torque
from molmoact2_emulators.so101_arm import FAULTS, EmulatedArm, calibrated_servos, stops, unpacked_servos
from molmoact2_emulators.so101_calibration import (
    JOINTS,
    MIDDLE,
    REACH,
    JointCalibration,
    mounting,
    usual_calibration,
)
from molmoact2_emulators.so101_exchange import Commands, Exchange, Mailbox, Push, State
from molmoact2_emulators.so101_mechanics import LightMechanics

MS = 1_000_000


class Bench:
    """An arm, its time and its faults."""

    def __init__(self) -> None:
        self.now_ns = 5_000 * MS
        self.servos, self.mountings = calibrated_servos(usual_calibration())
        for servo, mounted, middle in zip(self.servos, self.mountings, MIDDLE, strict=True):
            servo.shaft.position = mounted.ticks(middle)
        self.mechanics = LightMechanics([servo.shaft for servo in self.servos], stops(self.mountings))
        self.plan = FaultPlan(FAULTS, clock=lambda: self.now_ns * 1e-9)
        self.arm = EmulatedArm(self.servos, self.mountings, self.mechanics, self.plan, self.now_ns)

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> None:
        for _ in range(round(seconds * 100)):
            self.now_ns += 10 * MS
            self.arm.advance(self.now_ns)
            if each is not None:
                each()

    def write(self, servo: int, register: reg.Register, value: int) -> None:
        data = register.encode(value).to_bytes(register.size, "little")
        self.servos[servo - 1].write(register.address, data)

    def units(self) -> list[float]:
        return [m.units(servo.shaft.position) for m, servo in zip(self.mountings, self.servos, strict=True)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_lerobot_s_formula_gives_the_simulator_s_degrees() -> None:
    for number, (name, joint) in enumerate(usual_calibration().items()):
        assert JOINTS[number] == name
        mounted = mounting(number, joint)
        for units in (REACH[number][0], 0.0, 12.5, REACH[number][1]):
            raw = mounted.ticks(units) - joint.homing_offset
            if name == "gripper":
                assert (raw - joint.range_min) / (joint.range_max - joint.range_min) * 100 == pytest.approx(
                    units
                )
            else:
                assert (raw - (joint.range_min + joint.range_max) / 2) * 360 / 4095 == pytest.approx(units)
            # What the arm reaches, the recorded range covers, to a tick.
            assert joint.range_min - 1 <= raw <= joint.range_max + 1


@given(
    st.integers(0, 3000),
    st.integers(50, 1095),
    st.integers(-2047, 2047),
    st.integers(0, 1),
    st.integers(0, 5),
)
def test_any_calibration_is_a_mounting(low: int, span: int, offset: int, mode: int, number: int) -> None:
    joint = JointCalibration(number + 1, mode, offset, low, low + span)
    mounted = mounting(number, joint)
    assert mounted.units(mounted.ticks(33.0)) == pytest.approx(33.0)
    if number == 5:
        ends = [mounted.units(tick + offset) for tick in (low, low + span)]
        assert ends == pytest.approx([100.0, 0.0] if mode else [0.0, 100.0])


def test_servos_are_as_lerobot_leaves_them(bench: Bench) -> None:
    for number, servo in enumerate(bench.servos, start=1):
        assert servo.id == number
        assert servo.memory[reg.RETURN_DELAY] == 0
        assert servo.memory[reg.TORQUE_ENABLE] == 0
        assert servo.memory[reg.LOCK] == 1
        assert servo.memory[reg.GOAL_POSITION] == servo.present_position()
    assert bench.servos[5].memory[reg.MAX_TORQUE] == 500


def test_the_arm_s_parts_stop_it(bench: Bench) -> None:
    for servo in bench.servos:
        servo.memory.put(reg.MIN_ANGLE, 0)
        servo.memory.put(reg.MAX_ANGLE, 4095)
    for number, (low, high) in enumerate(REACH, start=1):
        bench.write(number, reg.TORQUE_ENABLE, 1)
        for goal, end in ((4095, high), (0, low)):
            bench.write(number, reg.GOAL_POSITION, goal)
            bench.run(1.5)
            assert bench.units()[number - 1] == pytest.approx(end, abs=0.1)


def test_who_pushes_against_a_stop_is_overloaded(bench: Bench) -> None:
    bench.write(1, reg.MAX_ANGLE, 4095)
    bench.write(1, reg.TORQUE_ENABLE, 1)
    bench.write(1, reg.GOAL_POSITION, 4000)
    bench.run(1.0)
    assert bench.servos[0].error == 0
    bench.run(3.0)
    assert bench.servos[0].error == reg.OVERLOAD_ERROR


@given(
    st.lists(
        st.tuples(st.floats(-5000, 9000), st.floats(0.05, 3.0), st.floats(0.0, 1.0)), min_size=1, max_size=5
    )
)
def test_no_drive_is_too_much_for_the_mechanics(drives: list[tuple[float, float, float]]) -> None:
    shaft = Shaft(2000.0)
    mechanics = LightMechanics([shaft], [(800.0, 3300.0)])
    for set_point, stiffness, limit in drives:
        for _ in range(100):
            mechanics.step([Drive(Torque.FOLLOWING, set_point, stiffness, limit)], [None])
            assert 800.0 <= shaft.position <= 3300.0
            assert abs(shaft.speed) <= 3400.0
            assert abs(shaft.load) <= limit


def test_hands_move_what_is_free(bench: Bench) -> None:
    bench.write(2, reg.TORQUE_ENABLE, 1)
    bench.plan.add("hand servo=1 degrees=30")
    bench.plan.add("hand servo=2 degrees=30")
    bench.run(1.5)
    assert bench.units()[0] == pytest.approx(30.0, abs=0.5)
    assert bench.units()[1] == pytest.approx(0.0, abs=0.5)
    bench.plan.add("clear hand")
    bench.plan.add("middle")
    bench.run(1.5)
    assert bench.units() == pytest.approx(list(MIDDLE), abs=0.5)


def test_a_sweep_reaches_every_end(bench: Bench) -> None:
    bench.plan.add("sweep")
    seen: list[list[float]] = []
    # The widest joint goes through its range, and back, in 640 degrees at 60 a second.
    bench.run(11.0, lambda: seen.append(bench.units()))
    for joint, (low, high) in enumerate(REACH):
        positions = [units[joint] for units in seen]
        assert min(positions) == pytest.approx(low, abs=3.5)
        assert max(positions) == pytest.approx(high, abs=3.5)


def test_faults_come_and_go_with_their_time(bench: Bench) -> None:
    bench.plan.add("absent servo=3 duration=0.5")
    bench.plan.add("locked duration=0.5")
    bench.run(0.2)
    assert bench.arm.bus.connected == [True, True, False, True, True, True]
    assert bench.servos[0].faults.eeprom_locked
    bench.run(0.5)
    assert bench.arm.bus.connected == [True] * 6
    assert not bench.servos[0].faults.eeprom_locked
    bench.plan.add("only servo=2 duration=0.1")
    bench.run(0.05)
    assert bench.arm.bus.connected == [False, True, False, False, False, False]
    bench.run(0.2)
    assert bench.arm.bus.connected == [True] * 6


def test_power_goes_for_all_at_once(bench: Bench) -> None:
    for servo in range(1, 7):
        bench.write(servo, reg.TORQUE_ENABLE, 1)
    bench.plan.add("power_loss duration=0.2")
    bench.run(0.1)
    assert not bench.arm.powered
    assert bench.arm.bus.connected == [False] * 6
    bench.run(0.2)
    assert bench.arm.powered
    assert bench.arm.bus.connected == [True] * 6
    assert {servo.drive.torque for servo in bench.servos} == {Torque.FREE}


def test_what_it_missed_it_never_lived_through(bench: Bench) -> None:
    looks: list[int] = []
    bench.now_ns += 3_600_000 * MS
    bench.arm.advance(bench.now_ns, lambda: looks.append(1))
    assert 1 <= len(looks) <= 11


def test_picked_up_and_put_elsewhere() -> None:
    bench = Bench()
    moved = [True]

    class Hands(LightMechanics):
        def step(self, drives: object, hands: object) -> bool:
            return moved.pop() if moved else False

    mechanics = Hands([servo.shaft for servo in bench.servos], stops(bench.mountings))
    arm = EmulatedArm(bench.servos, bench.mountings, mechanics, bench.plan, bench.now_ns)
    bench.write(1, reg.TORQUE_ENABLE, 1)
    bench.servos[0].shaft.position = 2300.0
    arm.advance(bench.now_ns + 10 * MS)
    assert bench.servos[0].memory[reg.GOAL_POSITION] == 2300
    assert bench.servos[0].drive.set_point == 2300.0
    assert bench.servos[0].drive.torque is Torque.FOLLOWING


def test_out_of_the_box_every_arm_is_another() -> None:
    _, one = unpacked_servos(1)
    _, again = unpacked_servos(1)
    servos, two = unpacked_servos(2)
    assert one == again != two
    assert {servo.id for servo in servos} == {1}
    for mounted, (low, high), middle in zip(two, REACH, MIDDLE, strict=True):
        assert abs(mounted.ticks(middle) - 2048) <= 400
        degrees = 110 if (low, high) == (0.0, 100.0) else high - low
        assert mounted.ticks(high) - mounted.ticks(low) == pytest.approx(degrees * 4095 / 360)


def test_a_record_that_is_being_written_is_not_read() -> None:
    memory = mmap.mmap(-1, 4096)
    mailbox = Mailbox(memory, 64, 3)
    assert mailbox.read() is None
    mailbox.write((1.0, 2.0, 3.0))
    assert mailbox.read() == (1.0, 2.0, 3.0)
    half = struct.pack("<d", 9.0)
    memory[68:76] = half
    assert mailbox.read() is None
    mailbox.write((4.0, 5.0, 6.0))
    assert mailbox.read() == (4.0, 5.0, 6.0)
    memory.close()


def test_what_the_two_processes_tell_each_other() -> None:
    descriptor = Exchange.allocate()
    here, there = Exchange(descriptor), Exchange(descriptor)
    os.close(descriptor)
    assert there.commands() is None
    assert here.state() is None
    commands = Commands(3, True, 0.25, tuple(Push(joint, 1.0, 0.5, 0.2) for joint in range(6)))
    here.put_commands(commands)
    assert there.commands() == commands
    state = State(7, tuple(map(float, range(6))), (0.5,) * 6, (-1.0,) * 6)
    there.put_state(state)
    assert here.state() == state
