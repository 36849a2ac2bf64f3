"""Middle pose and ranges from encoders, whatever offsets the servos have; nothing is written before the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arms.fake_arm import JOINTS, FakeBus, configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molmoact2_drivers.calibration import ArmCalibration, ArmRole, JointCalibration, load_calibration
from molmoact2_edge.arms.arm_servos import ArmServos, arm_servos
from molmoact2_edge.arms.calibration_progress import progress_path
from molmoact2_edge.arms.calibration_session import CalibrationSession, differences
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError

SWING = 1100
LIFT, ROLL = 2, 5


def arm() -> ArmServos:
    return arm_servos(configuration())


def fake_bus(middle: int = 2047, offset: int = 0) -> FakeBus:
    return FakeBus(dict.fromkeys(range(1, 7), middle), dict.fromkeys(range(1, 7), offset))


def session(bus: FakeBus, target: Path, existing: ArmCalibration | None = None) -> CalibrationSession:
    return CalibrationSession(bus, arm(), target, existing)  # type: ignore[arg-type]


def swing(
    session: CalibrationSession, bus: FakeBus, ticks: int = SWING, servos: tuple[int, ...] = (1, 2, 3, 4, 6)
) -> None:
    """Move joints to one side and the other, in steps as a hand does."""
    for servo in servos:
        middle = bus.encoders[servo]
        for away in [
            *range(0, ticks, 300),
            ticks,
            *range(ticks, -ticks, -300),
            -ticks,
            *range(-ticks, 0, 300),
            0,
        ]:
            bus.encoders[servo] = (middle + away) % 4096
            session.record()


def calibrated(bus: FakeBus, target: Path) -> ArmCalibration:
    made = session(bus, target)
    made.release()
    made.take_middle()
    swing(made, bus)
    result = made.result()
    made.write(result)
    return result


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "robots" / "so_follower" / "mine.json"


def test_a_whole_calibration(target: Path) -> None:
    bus = fake_bus(middle=3000, offset=123)
    calibrated(bus, target)
    saved = load_calibration(target)
    assert tuple(saved) == JOINTS
    assert saved["shoulder_pan"] == JointCalibration(1, 0, 3000 - 2047, 2047 - SWING, 2047 + SWING)
    assert saved["wrist_roll"] == JointCalibration(5, 0, 3000 - 2047, 0, 4095)
    assert bus.registers[1]["homing_offset"] == 953
    assert bus.registers[1]["min_position_limit"] == 947
    assert set(bus.torque) == set(range(1, 7))
    assert not progress_path(target).exists()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    middle=st.integers(0, 4095),
    offset=st.integers(-2047, 2047),
    low=st.integers(800, 2020),
    high=st.integers(800, 2020),
    sign=st.sampled_from([1, -1]),
)
def test_any_encoder_and_any_offset_give_the_same_readings(
    tmp_path: Path, middle: int, offset: int, low: int, high: int, sign: int
) -> None:
    servos = arm_servos(load_robot("so101") if sign == 1 else koch())
    bus = FakeBus(dict.fromkeys(range(1, 7), middle), dict.fromkeys(range(1, 7), offset), sign)
    made = CalibrationSession(bus, servos, tmp_path / "any.json")  # type: ignore[arg-type]
    made.progress.remove()
    made.take_middle()
    for servo in range(1, 7):
        for away in [*range(0, high, 400), high, *range(high, -low, -400), -low]:
            bus.encoders[servo] = (middle + away) % 4096
            made.record()
    result = made.result()
    made.apply(result)
    for joint, values in result.items():
        number = servos.ids[joint]
        for encoder, reading in ((middle, 2047), (middle - low, 2047 - low), (middle + high, 2047 + high)):
            bus.encoders[number] = encoder % 4096
            # One tick in 4096 is not to be had: the register's largest offset is 2047.
            assert abs(bus.read(number, "present_position") - reading) <= 1
        if joint not in servos.full_turn:
            assert values.range_max - values.range_min == low + high


def koch():  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(load_robot("so101"), name="koch", driver="koch")


def test_a_joint_that_was_not_moved_is_refused_and_named(target: Path) -> None:
    bus = fake_bus()
    made = session(bus, target)
    made.take_middle()
    swing(made, bus, servos=(1, 2, 3, 6))
    assert {view.joint: view.kind for view in made.views()}["wrist_flex"] == "not_moved"
    with pytest.raises(InputError, match="wrist_flex: not moved yet: move it from one stop to the other"):
        made.result()
    assert bus.writes == 0


def test_a_small_range_is_told_and_may_be_accepted(target: Path) -> None:
    bus = fake_bus()
    made = session(bus, target)
    made.take_middle()
    swing(made, bus, ticks=500)
    small = {view.joint for view in made.views() if view.kind == "too_small"}
    assert small == {"shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex"}
    assert "moved 88 of about 220 degrees" in made.views()[0].trouble
    assert made.result()["shoulder_pan"].range_min == 1547


def test_a_joint_that_passed_half_a_turn_needs_another_middle_pose(target: Path) -> None:
    bus = fake_bus()
    made = session(bus, target)
    made.take_middle()
    swing(made, bus, ticks=2200, servos=(LIFT,))
    view = made.views()[1]
    assert view.kind == "wrapped"
    assert view.highest == 2047 + 2200
    with pytest.raises(InputError, match="take the middle pose again"):
        made.result()


def test_the_end_of_an_encoder_within_the_range_is_no_jump(target: Path) -> None:
    """A horn that was mounted anyhow: the encoder passes 4095 in the middle of the joint's range."""
    bus = fake_bus(middle=4090)
    made = session(bus, target)
    made.take_middle()
    swing(made, bus)
    assert made.result()["shoulder_pan"].range_max == 2047 + SWING - (
        4090 - 2047 - made.result()["shoulder_pan"].homing_offset
    )


def test_it_goes_on_where_it_was_interrupted(target: Path) -> None:
    bus = fake_bus(middle=1000)
    first = session(bus, target)
    first.take_middle()
    swing(first, bus, servos=(1, 2, 3))
    first.progress.save()
    assert bus.writes == 0
    second = session(bus, target)
    assert second.progress.age_s is not None
    swing(second, bus, servos=(4, 6))
    assert all(view.kind in ("good", "full_turn") for view in second.views())
    second.write(second.result())
    assert load_calibration(target)["shoulder_pan"].range_max == 2047 + SWING


def test_an_unreadable_progress_file_is_not_thrown_away(target: Path) -> None:
    target.parent.mkdir(parents=True)
    for content in ("no json", '{"joints": {"a": {}}}', '{"joints": 3}', "[]"):
        progress_path(target).write_text(content)
        with pytest.raises(InputError, match="remove it to begin anew"):
            session(fake_bus(), target)
        assert progress_path(target).read_text() == content


def test_the_calibration_before_is_kept(target: Path) -> None:
    bus = fake_bus()
    calibrated(bus, target)
    before = target.read_bytes()
    bus.encoders = dict.fromkeys(range(1, 7), 2000)
    made = session(bus, target, load_calibration(target))
    made.take_middle()
    swing(made, bus, ticks=1000)
    backup = made.write(made.result())
    assert backup is not None
    assert backup.read_bytes() == before
    assert target.read_bytes() != before


def test_a_drive_mode_is_kept(target: Path) -> None:
    bus = fake_bus()
    mirrored = {
        joint: JointCalibration(place, int(joint == "gripper"), 0, 900, 3000)
        for place, joint in enumerate(JOINTS, 1)
    }
    made = session(bus, target, ArmCalibration(mirrored))
    made.take_middle()
    swing(made, bus)
    assert made.result()["gripper"].drive_mode == 1


def test_servos_that_do_not_keep_their_values_leave_file_and_progress(target: Path) -> None:
    bus = fake_bus(middle=2500)
    bus.forgets = {3}
    made = session(bus, target)
    made.take_middle()
    swing(made, bus)
    made.progress.recorded = True
    made.progress.save()
    with pytest.raises(RobotError, match=r"did not keep.*elbow_flex homing_offset.*no file was written"):
        made.write(made.result())
    assert not target.exists()
    assert json.loads(progress_path(target).read_text())["recorded"] is True
    bus.forgets = set()
    again = session(bus, target)
    again.write(again.result())
    assert load_calibration(target)["elbow_flex"].homing_offset == 453


def test_servos_that_read_otherwise_than_calculated_are_told(target: Path) -> None:
    bus = fake_bus(middle=2500)
    made = session(bus, target)
    made.take_middle()
    swing(made, bus)
    bus.sign = -1  # a servo with the other convention
    with pytest.raises(RobotError, match="read otherwise than their new offsets"):
        made.write(made.result())
    assert not target.exists()


def test_differences_name_what_changes() -> None:
    one = {"gripper": JointCalibration(6, 0, 5, 900, 3000)}
    other = {"gripper": JointCalibration(6, 1, 5, 901, 3000)}
    assert [(d.joint, d.key, d.before, d.after) for d in differences(one, other)] == [
        ("gripper", "range_min", 901, 900)
    ]
    assert [d.before for d in differences(one, None)] == [None] * 4
    assert differences(one, one) == []


def test_recording_without_a_middle_pose_is_an_error(target: Path) -> None:
    with pytest.raises(RobotError, match="middle pose comes first"):
        session(fake_bus(), target).record()


def test_the_progress_file_is_no_calibration_for_anyone(target: Path) -> None:
    made = session(fake_bus(), target)
    made.take_middle()
    assert list(target.parent.glob("*.json")) == []


def test_only_arms_made_of_servos_can_be_calibrated() -> None:
    with pytest.raises(InputError, match="has no servos to set up here"):
        arm_servos(load_robot("sim-so101"), ArmRole.FOLLOWER)
