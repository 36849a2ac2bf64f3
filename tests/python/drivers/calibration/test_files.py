"""LeRobot's calibration files: where they lie, what is in them, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from molmoact2_drivers.calibration import (
    SO_JOINTS,
    ArmCalibration,
    ArmRole,
    JointCalibration,
    calibration_folders,
    calibration_home,
    default_path,
    find_calibration,
    half_turn_offset,
    load_calibration,
    save_calibration,
)
from molmoact2_edge.errors import InputError


def _arm() -> dict[str, JointCalibration]:
    return {
        name: JointCalibration(
            number + 1, int(name == "gripper"), 10 * number - 30, 700 + number, 3400 - number
        )
        for number, name in enumerate(SO_JOINTS)
    }


def test_a_file_is_read_back_as_it_was_written_and_looks_like_lerobots(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "mine.json"
    save_calibration(path, _arm())
    loaded = load_calibration(path)
    assert dict(loaded) == _arm()
    assert loaded.path == path
    text = path.read_text()
    assert text.startswith('{\n    "shoulder_pan": {\n        "id": 1,\n        "drive_mode": 0,\n')
    assert list(json.loads(text)["gripper"]) == [
        "id",
        "drive_mode",
        "homing_offset",
        "range_min",
        "range_max",
    ]
    assert path.stat().st_mode & 0o777 == 0o644


def test_joints_come_in_the_arms_order_whatever_the_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save_calibration(path, dict(reversed(_arm().items())))
    assert tuple(load_calibration(path)) == SO_JOINTS


@pytest.mark.parametrize(
    ("joint", "change", "said"),
    [
        (
            "elbow_flex",
            {"range_max": 100},
            r"elbow_flex: range_min, range_max: expected 0 <= range_min < range_max",
        ),
        ("elbow_flex", {"range_max": 4096}, r"range_max <= 4095, got 702 and 4096"),
        ("wrist_roll", {"range_min": -1}, r"wrist_roll: range_min, range_max: .* got -1 and"),
        ("gripper", {"drive_mode": 2}, r"gripper: drive_mode: expected 0 or 1, got 2"),
        ("gripper", {"homing_offset": 2048}, r"gripper: homing_offset: expected -2047 to 2047, got 2048"),
        ("gripper", {"homing_offset": 1.5}, r"gripper: homing_offset: expected a whole number, got 1.5"),
        ("gripper", {"id": True}, r"gripper: id: expected a whole number, got True"),
        ("gripper", {"id": 1}, r"gripper: id: 1 is already that of shoulder_pan"),
        ("gripper", {"id": 254}, r"gripper: id: expected 0 to 253, got 254"),
        ("gripper", {"idd": 1}, r"gripper: no key 'idd'"),
    ],
)
def test_what_is_wrong_is_said_with_file_joint_and_key(
    tmp_path: Path, joint: str, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "wrong.json"
    save_calibration(path, _arm())
    data = json.loads(path.read_text())
    data[joint] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=said) as raised:
        load_calibration(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not readable as a calibration"),
        ("[]", "expected joints by name, got list"),
        ("{}", "joint shoulder_pan is missing"),
        ('{"shoulder_pan": 3}', "joint shoulder_lift is missing"),
    ],
)
def test_what_is_no_calibration_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "no.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_calibration(path)


def test_a_missing_key_and_an_extra_joint_are_told(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    save_calibration(path, _arm())
    data = json.loads(path.read_text())
    del data["gripper"]["range_min"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"gripper: key range_min is missing"):
        load_calibration(path)
    data["gripper"] = data["wrist_flex"] | {"id": 6}
    data["tail"] = data["gripper"] | {"id": 7}
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"no joint 'tail'"):
        load_calibration(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save_calibration(path, _arm())
    before = path.read_bytes()
    with pytest.raises(InputError, match="range_min < range_max"):
        save_calibration(path, {"gripper": JointCalibration(6, 0, 0, 5, 5)})
    blocked = tmp_path / "file" / "mine.json"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_calibration(blocked, _arm())
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        save_calibration(tmp_path / "taken", _arm())
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "mine.json", "taken"]


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"HF_LEROBOT_CALIBRATION": "/a", "HF_LEROBOT_HOME": "/b", "HF_HOME": "/c"}, "/a"),
        ({"HF_LEROBOT_HOME": "/b", "HF_HOME": "/c"}, "/b/calibration"),
        ({"HF_HOME": "/c"}, "/c/lerobot/calibration"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/lerobot/calibration"),
    ],
)
def test_the_home_is_lerobots(environ: dict[str, str], home: str) -> None:
    assert calibration_home(environ) == Path(home)


def test_without_settings_the_home_is_in_the_users_cache() -> None:
    assert calibration_home({}) == Path.home() / ".cache" / "huggingface" / "lerobot" / "calibration"


@pytest.mark.parametrize(
    ("family", "role", "folders"),
    [
        ("so101", ArmRole.FOLLOWER, ("robots/so_follower", "robots/so101_follower")),
        ("so100", ArmRole.FOLLOWER, ("robots/so_follower", "robots/so100_follower")),
        ("so101", ArmRole.LEADER, ("teleoperators/so_leader", "teleoperators/so101_leader")),
        ("koch", ArmRole.FOLLOWER, ("robots/koch_follower",)),
    ],
)
def test_both_names_of_the_folder_are_known(family: str, role: ArmRole, folders: tuple[str, ...]) -> None:
    assert calibration_folders(family, role, Path("/h")) == tuple(Path("/h") / folder for folder in folders)
    assert default_path(family, role, "x", Path("/h")) == Path("/h") / folders[0] / "x.json"


def test_an_unknown_family_or_a_name_with_folders_is_refused() -> None:
    with pytest.raises(InputError, match="no calibrations for 'ur5'; there are some for koch, so100, so101"):
        calibration_folders("ur5", ArmRole.FOLLOWER)
    for name in ("", "..", "a/b", "/etc/passwd"):
        with pytest.raises(InputError, match="without folders"):
            default_path("so101", ArmRole.FOLLOWER, name)


def test_a_file_is_found_in_either_folder_the_newer_first(tmp_path: Path) -> None:
    def find(name: str | None) -> Path:
        return find_calibration("so101", ArmRole.FOLLOWER, name, tmp_path)

    newer, older = calibration_folders("so101", ArmRole.FOLLOWER, tmp_path)
    with pytest.raises(
        InputError, match=r"no calibration in .*; make one: molmoact2-edge calibrate --robot so101"
    ):
        find(None)
    save_calibration(older / "mine.json", _arm())
    assert find("mine") == find(None) == older / "mine.json"
    save_calibration(newer / "mine.json", _arm())
    assert find("mine") == find(None) == newer / "mine.json"
    save_calibration(older / "yours.json", _arm())
    assert find("yours") == older / "yours.json"
    with pytest.raises(InputError, match=r"several calibrations in .*: mine, yours; say which with --id"):
        find(None)
    with pytest.raises(InputError, match=r"no calibration 'hers' in .*; there are mine, yours.* --id hers"):
        find("hers")


def test_a_half_turn_offset_is_what_the_register_holds() -> None:
    assert half_turn_offset(2047) == 0
    assert half_turn_offset(0) == -2047
    assert half_turn_offset(4094) == 2047
    with pytest.raises(InputError, match="mount its horn anew"):
        half_turn_offset(4095)


def test_a_calibration_names_its_joints() -> None:
    arm = ArmCalibration(_arm())
    assert len(arm) == 6
    assert arm["gripper"].drive_mode == 1
    assert "elbow_flex" in repr(arm)
