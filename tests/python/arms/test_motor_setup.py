"""What setup-motors remembers between two runs, and what it makes of an arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from arms.fake_arm import FakeFound, configuration

from molmoact2_drivers.calibration import ArmRole
from molmoact2_edge.arms.arm_servos import arm_servos
from molmoact2_edge.arms.motor_setup import Attached, MotorSetup, SetupMemory, state_directory
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError, RobotError


def test_what_is_done_is_remembered_until_it_is_forgotten(tmp_path: Path) -> None:
    memory = SetupMemory(arm_servos(configuration()), tmp_path)
    assert memory.done() == ()
    memory.remember("gripper")
    memory.remember("wrist_roll")
    assert SetupMemory(arm_servos(configuration()), tmp_path).done() == ("wrist_roll", "gripper")
    assert SetupMemory(arm_servos(configuration(), ArmRole.LEADER), tmp_path).done() == ()
    memory.forget()
    assert memory.done() == ()


@pytest.mark.parametrize("content", ["no json", "[]", '{"done": 3}', '{"done": ["elbow"]}'])
def test_a_memory_that_is_not_ours_is_none(tmp_path: Path, content: str) -> None:
    memory = SetupMemory(arm_servos(configuration()), tmp_path)
    memory.remember("gripper")
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert memory.done() == ()


def test_a_directory_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = SetupMemory(arm_servos(configuration()), tmp_path / "file" / "under")
    memory.remember("gripper")
    assert memory.done() == ()


def test_the_state_directory_follows_the_environment(tmp_path: Path) -> None:
    assert state_directory({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "molmoact2-edge"
    assert state_directory({}) == Path.home() / ".local" / "state" / "molmoact2-edge"


def test_what_is_attached_in_words() -> None:
    assert "no motor answers" in Attached((), ()).text
    assert "several with id 1" in Attached((), (1,)).text
    assert Attached((), (1,)).only is None


def test_servos_of_each_arm() -> None:
    so101 = arm_servos(load_robot("so101"))
    assert list(so101.ids.values()) == [1, 2, 3, 4, 5, 6]
    assert set(so101.models.values()) == {"sts3215"}
    assert so101.joint_of(3) == "elbow_flex"
    assert so101.joint_of(9) is None
    koch = arm_servos(load_robot("koch"))
    assert koch.models["shoulder_lift"] == "xl430-w250"
    assert koch.full_turn == {"shoulder_pan", "wrist_roll"}
    assert set(arm_servos(load_robot("koch"), ArmRole.LEADER).models.values()) == {"xl330-m077"}
    assert arm_servos(load_robot("so100"), ArmRole.LEADER).title == "so100 leader"


def test_an_arm_with_other_joints_is_refused() -> None:
    config = configuration()
    fewer = replace(config, joints=dict(list(config.joints.items())[:4]))
    with pytest.raises(InputError, match="a so101 has 6 joints"):
        arm_servos(fewer)


def test_another_model_is_not_made_a_joint() -> None:
    setup = MotorSetup(arm_servos(load_robot("koch")), "/dev/ttyNOTHING9")
    with pytest.raises(RobotError, match="gripper of koch wants a xl330-m288, this motor is a xl430-w250"):
        setup.assign("gripper", FakeFound(1, model="xl430-w250"))
    with pytest.raises(RobotError, match="this motor is a model number 4660"):
        setup.assign("gripper", FakeFound(1, model=None, model_number=4660))


def test_only_an_id_that_is_not_the_maker_s_says_where_a_motor_belongs() -> None:
    setup = MotorSetup(arm_servos(load_robot("koch")), "/dev/ttyNOTHING9")
    assert setup.belongs_elsewhere("gripper", FakeFound(3)) == "elbow_flex"
    assert setup.belongs_elsewhere("gripper", FakeFound(6)) is None
    assert setup.belongs_elsewhere("gripper", FakeFound(1)) is None
    assert setup.belongs_elsewhere("gripper", FakeFound(77)) is None
