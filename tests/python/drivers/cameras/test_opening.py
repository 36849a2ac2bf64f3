"""Cameras are matched to roles by name, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molmoact2_drivers import LifeCycle
from molmoact2_drivers.cameras import list_cameras, open_cameras
from molmoact2_edge.config import RobotConfig, load_robot
from molmoact2_edge.errors import InputError, RobotError

PATIENCE_S = 20.0


@pytest.fixture
def config() -> RobotConfig:
    return load_robot("so101")


def with_sources(config: RobotConfig, **sources: str) -> RobotConfig:
    cameras = {role: replace(camera, source=sources.get(role)) for role, camera in config.cameras.items()}
    return replace(config, cameras=cameras)


def test_the_order_is_the_robot_s_and_nothing_is_opened(config: RobotConfig) -> None:
    cameras = open_cameras(config, {"wrist": "/dev/video98", "front": "/dev/video99"})
    assert list(cameras) == list(config.cameras) == ["front", "wrist"]
    for role, camera in cameras.items():
        assert camera.name == role
        assert camera.life_cycle is LifeCycle.DISCONNECTED
        assert (camera.capabilities.height, camera.capabilities.width) == (480, 640)


def test_the_command_line_comes_before_the_configuration(config: RobotConfig) -> None:
    written = with_sources(config, front="/dev/video1", wrist="/dev/video2")
    open_cameras(written)
    # Each says which device it is by what it cannot open.
    for sources, expected in (({}, "/dev/video1"), ({"front": "/dev/video97"}, "/dev/video97")):
        camera = open_cameras(written, sources)["front"]
        with pytest.raises(Exception, match=f"{expected}: "):
            camera.connect()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {},
            "camera front has no source; camera wrist has no source. so101's cameras are front, wrist; given are none",
        ),
        ({"front": "/dev/video0"}, "camera wrist has no source.*given are front=/dev/video0"),
        (
            {"front": "/dev/video0", "wirst": "/dev/video1"},
            "so101 has no camera wirst; camera wrist has no source.*cameras are front, wrist; given are front=.*wirst=",
        ),
        ({"front": "/dev/video0", "wrist": "0"}, "camera wrist: a camera is not named by its index"),
        ({"front": "/dev/video0", "wrist": "/dev/video0"}, "cameras front and wrist are the same device"),
        (
            {"front": "/dev/video0", "wrist": "/dev/../dev/video0"},
            "cameras front and wrist are the same device",
        ),
        ({"front": "http://a/b", "wrist": "http://a/b"}, "are the same device"),
        ({"front": "realsense:12", "wrist": "realsense:12"}, "are the same device"),
    ],
)
def test_what_does_not_fit_is_named(config: RobotConfig, sources: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_cameras(config, sources)


def test_a_file_may_be_played_to_two_roles(config: RobotConfig) -> None:
    assert len(open_cameras(config, {"front": "a.mp4", "wrist": "a.mp4"})) == 2


def test_a_configuration_s_keys_reach_the_cameras(config: RobotConfig, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    still, film = tmp_path / "still.png", tmp_path / "large.png"
    assert cv2.imwrite(str(still), np.full((480, 640, 3), 9, np.uint8))
    assert cv2.imwrite(str(film), np.full((960, 1280, 3), 9, np.uint8))
    refused = open_cameras(with_sources(config, front=str(film), wrist=str(still)))["front"]
    with pytest.raises(
        RobotError, match="gives 1280x960, wanted is 640x480; allow resizing, with resize: true"
    ):
        refused.connect()
    watched = {
        role: replace(camera, resize=True, freeze_fault_s=0.05)
        for role, camera in with_sources(config, front=str(film), wrist=str(still)).cameras.items()
    }
    for role, camera in open_cameras(replace(config, cameras=watched)).items():
        camera.connect()
        try:
            assert camera.latest().image.shape == (480, 640, 3)
            assert ("resized to 640x480" in camera.description) == (role == "front")
            newer = camera.latest()
            for _ in range(10):  # a third of a second of a file that stands still, which files may
                newer = camera.wait_newer(newer.sequence, PATIENCE_S)
            assert camera.statistics.frozen > 0
            assert camera.life_cycle is LifeCycle.ACTIVE
        finally:
            camera.disconnect()


def test_a_folder_without_cameras_has_none(tmp_path: Path) -> None:
    assert list_cameras(dev=tmp_path) == []


def test_what_is_no_camera_is_listed_with_its_problem(tmp_path: Path) -> None:
    for number in (10, 9):
        (tmp_path / f"video{number}").touch()
    by_id = tmp_path / "v4l" / "by-id"
    by_id.mkdir(parents=True)
    (by_id / "usb-C270").symlink_to(tmp_path / "video9")
    first, second = list_cameras(dev=tmp_path)
    assert first.path == str(tmp_path / "video9")
    assert second.path == str(tmp_path / "video10")
    assert first.by_id == (str(by_id / "usb-C270"),)
    assert first.problem == second.problem == "this is no V4L2 device"


def test_importing_cameras_is_light() -> None:
    code = (
        "import sys, molmoact2_drivers.cameras; "
        "assert not {'torch', 'cv2', 'linuxpy', 'pyrealsense2', 'yaml'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
