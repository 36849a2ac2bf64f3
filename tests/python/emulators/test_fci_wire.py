"""The packed layouts, and the geometry behind the poses in them."""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import numpy as np
import pytest

from molmoact2_emulators.fci_wire import (
    ERRORS,
    FCI_V5,
    FCI_V10,
    MOVE_ASYNC,
    MOVE_REQUEST,
    FciVersion,
    unpack_command,
)
from molmoact2_emulators.franka_arm import (
    FR3,
    HAND_POSE,
    IDENTITY,
    READY_POSE,
    compose,
    flange_pose,
    from_matrix,
    matrix,
)
from molmoact2_emulators.franka_urdf import urdf


@pytest.mark.parametrize(
    ("version", "state", "command"), [(FCI_V10, 1377, 371), (FCI_V5, 2373, 370)], ids=["v10", "v5"]
)
def test_datagrams_have_the_sizes_of_their_version(version: FciVersion, state: int, command: int) -> None:
    assert version.state.struct.size == state
    assert version.command.size == command


def test_a_move_request_has_the_sizes_of_its_version() -> None:
    assert FCI_V5.move_sizes == (56,)
    assert FCI_V10.move_sizes == (56, 113)
    assert MOVE_REQUEST.size + MOVE_ASYNC.size == 113


def test_there_are_41_errors_in_libfrankas_order() -> None:
    assert len(ERRORS) == len(set(ERRORS)) == 41
    assert ERRORS.index("joint_motion_generator_velocity_discontinuity") == 14
    assert ERRORS.index("communication_constraints_violation") == 25
    assert ERRORS.index("controller_torque_discontinuity") == 32
    assert ERRORS.index("base_acceleration_invalid_reading") == 40


@pytest.mark.parametrize(("version", "number"), [(FCI_V10, "f"), (FCI_V5, "d")], ids=["v10", "v5"])
def test_a_state_is_packed_field_by_field(version: FciVersion, number: str) -> None:
    numbers = [0.0] * version.state.count
    numbers[version.state.places["O_T_EE"]] = tuple(float(i) for i in range(16))
    numbers[version.state.places["q"]] = (1.5,) * 7
    errors = [index == 14 for index in range(41)]
    data = version.state.pack(77, numbers, (1, 2, 4), errors, [False] * 41, 0.5)
    size = struct.calcsize(number)
    assert struct.unpack_from("<Q", data)[0] == 77
    assert struct.unpack_from(f"<16{number}", data, 8) == tuple(range(16))
    # Six poses, two masses with inertia and centre, two elbows, three torques lie before q.
    assert struct.unpack_from(f"<7{number}", data, 8 + size * (96 + 26 + 4 + 21)) == (1.5,) * 7
    tail = data[8 + size * version.state.count :]
    assert tail[:2] == bytes([1, 2])
    assert tail[2 + 14] == 1
    assert sum(tail[2 : 2 + 82]) == 1
    assert tail[84] == 4
    assert struct.unpack_from(f"<{number}", tail, 85)[0] == 0.5


@pytest.mark.parametrize("version", [FCI_V10, FCI_V5], ids=["v10", "v5"])
def test_a_command_is_read_field_by_field(version: FciVersion) -> None:
    values = [9, *range(7), *range(10, 17), *[0.0] * 24, False, True, *range(20, 27)]
    if version is FCI_V10:
        values.append(True)
    command = unpack_command(version.command, version.command.pack(*values))
    assert command.message_id == 9
    assert command.q_c == tuple(range(7))
    assert command.dq_c == tuple(range(10, 17))
    assert command.tau_d == tuple(range(20, 27))
    assert command.motion_finished
    assert command.torque_finished == (version is FCI_V10)


def test_the_flange_is_where_the_data_sheet_has_it() -> None:
    # All joints at zero: straight up but for the wrist, which hangs 88 mm in front, 107 mm down.
    x, y, z = flange_pose((0.0,) * 7)[9:]
    assert (x, y, z) == pytest.approx((0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107))
    # The ready pose of libfranka's examples, with the hand: the grip point 307 mm before the base, pointing down.
    pose = compose(flange_pose(READY_POSE), HAND_POSE)
    assert pose[9:] == pytest.approx((0.30689, 0.0, 0.48688), abs=1e-5)
    assert pose[6:9] == pytest.approx((0.0, 0.0, -1.0), abs=1e-12)


def test_poses_compose_and_become_matrices() -> None:
    pose = flange_pose((0.3, -0.4, 0.5, -1.6, 0.7, 1.8, -0.9))
    assert compose(IDENTITY, pose) == pytest.approx(pose)
    assert compose(pose, IDENTITY) == pytest.approx(pose)
    assert from_matrix(matrix(pose)) == pose
    x, y, z = (np.array(pose[begin : begin + 3]) for begin in (0, 3, 6))
    assert [x @ x, x @ y, y @ z] == pytest.approx([1.0, 0.0, 0.0])
    assert np.cross(x, y) == pytest.approx(z)


def test_the_urdf_has_what_libfranka_looks_for() -> None:
    robot = ElementTree.fromstring(urdf(FR3))
    joints = robot.findall("joint")
    assert [joint.get("name") for joint in joints] == [f"joint{number}" for number in range(1, 9)]
    assert {link.get("name") for link in robot.findall("link")} == {f"link{number}" for number in range(9)}
    for index, joint in enumerate(joints[:7]):
        limit, slowing = joint.find("limit"), joint.find("position_based_velocity_limits")
        assert limit is not None
        assert slowing is not None
        assert float(limit.get("upper", "nan")) == FR3.position_max[index]
        assert float(slowing.get("deceleration_limit", "nan")) > 0.0
