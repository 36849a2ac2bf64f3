"""How large an offset which servo keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from molmoact2_drivers.calibration import ArmCalibration, JointCalibration, load_calibration, save_calibration
from molmoact2_drivers.dynamixel.control_table import control_table, model_files
from molmoact2_drivers.homing_offsets import homing_offset_max
from molmoact2_edge.arms.arm_servos import arm_servos
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError
from molmoact2_emulators.dynamixel_table import MODELS


@pytest.mark.parametrize(("robot", "limit"), [("so100", 2047), ("so101", 2047), ("koch", 1_044_479)])
def test_each_arm_has_the_limit_of_its_servos(robot: str, limit: int) -> None:
    assert arm_servos(load_robot(robot)).homing_offset_max == limit


def test_every_servo_that_an_arm_may_have_is_known() -> None:
    for number in model_files():
        table = control_table(number, 0)
        if table.x_series():
            assert homing_offset_max("dynamixel", table.model) == 1_044_479, table.model


def test_the_emulated_registers_hold_as_much() -> None:
    for model in MODELS.values():
        register = next(entry for entry in model.registers() if entry.name == "Homing Offset")
        assert register.high == -register.low == homing_offset_max("dynamixel", model.name)


def test_any_model_has_the_least_limit_and_an_unknown_one_is_named() -> None:
    assert homing_offset_max("feetech") == homing_offset_max("feetech", "STS3215") == 2047
    assert homing_offset_max("dynamixel", "") == 1_044_479
    with pytest.raises(InputError, match="a xl320 keeps is not known; known are dynamixel servos of"):
        homing_offset_max("dynamixel", "xl320")
    with pytest.raises(InputError, match="no protocol 'modbus'; there are feetech, dynamixel"):
        homing_offset_max("modbus", "xl320")


@pytest.mark.parametrize("limit", [2047, 1_044_479])
def test_files_are_judged_by_the_limit_that_is_given(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "mine.json"
    for offset in (limit, -limit):
        joints = {"gripper": JointCalibration(6, 0, offset, 900, 3000)}
        save_calibration(path, ArmCalibration(joints, offset_max=limit), limit)
        assert dict(load_calibration(path, ("gripper",), limit)) == joints
    beyond = {"gripper": JointCalibration(6, 0, limit + 1, 900, 3000)}
    with pytest.raises(InputError, match=f"homing_offset: expected -{limit} to {limit}, got {limit + 1}"):
        save_calibration(path, beyond, limit)
    assert dict(load_calibration(path, ("gripper",), limit)) == joints
