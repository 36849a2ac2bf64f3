"""``molmoact2-edge cameras`` with emulated cameras: the whole command, in a process that sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from emulators.filming import Filming, filming
from PIL import Image

from molmoact2_edge.cli import main
from molmoact2_emulators.camera_picture import read_number
from molmoact2_emulators.camera_shim import shim_environment

pytest.importorskip("cv2")

FRONT, WRIST = "/dev/video10", "/dev/video11"
ROBOT = """
extends: so101
cameras: # the other way round than the letters
  wrist: {height: 120, width: 160, rate_hz: 30}
  front: {height: 120, width: 160, rate_hz: 30}
"""
BOTH = ("--camera", f"front={FRONT}", "--camera", f"wrist={WRIST}")


@pytest.fixture
def films(tmp_path: Path) -> Iterator[tuple[Filming, Filming]]:
    with (
        filming(tmp_path / "front", rate_hz=30.0) as front,
        filming(tmp_path / "wrist", 320, 240, 30.0, mjpg=True) as wrist,
    ):
        yield front, wrist


def run(films: tuple[Filming, Filming], *options: str) -> subprocess.CompletedProcess[str]:
    variables = shim_environment({FRONT: films[0].writer.path, WRIST: films[1].writer.path})
    return subprocess.run(
        [sys.executable, "-m", "molmoact2_edge", "cameras", *options],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_cameras_are_listed_with_what_they_offer(films: tuple[Filming, Filming]) -> None:
    done = run(films, *BOTH)
    assert done.returncode == 0, done.stderr
    assert (
        f"{FRONT}  Filming\n    YUYV     160x120 at 30, 15 Hz\n    YUYV     80x60 at 30, 15 Hz\n"
        in done.stdout
    )
    assert "    MJPG     320x240 at 30, 15 Hz\n" in done.stdout
    assert f"front: 160x120 RGB from {FRONT} (YUYV 160x120 at 30 Hz)\n" in done.stdout


def test_a_robot_s_roles_come_in_the_order_of_its_policy(
    films: tuple[Filming, Filming], tmp_path: Path
) -> None:
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT)
    preview = tmp_path / "preview"
    done = run(films, *BOTH, "--robot", str(robot), "--preview", str(preview), "--json")
    assert done.returncode == 0, done.stderr
    looks = json.loads(done.stdout)["cameras"]
    assert [(look["name"], look["source"], look["problem"]) for look in looks] == [
        ("wrist", WRIST, None),
        ("front", FRONT, None),
    ]
    # 320x240 halved is offered by the camera itself.
    assert [look["gives"] for look in looks] == ["YUYV 160x120 at 30 Hz"] * 2
    for look in looks:
        assert (look["height"], look["width"]) == (120, 160)
        saved = np.asarray(Image.open(look["preview"]))
        assert saved.shape == (120, 160, 3)
        assert read_number(saved) is not None
    assert sorted(path.name for path in preview.iterdir()) == ["front.png", "wrist.png"]
    text = run(films, *BOTH, "--robot", str(robot)).stdout
    assert f"{robot}: the policy is given, in this order\n  1. wrist: 160x120 RGB from {WRIST}" in text
    assert f"  2. front: 160x120 RGB from {FRONT}" in text


def test_a_camera_that_does_not_fit_is_a_problem_and_the_others_are_looked_at(
    films: tuple[Filming, Filming], tmp_path: Path
) -> None:
    robot = tmp_path / "robot.yaml"
    robot.write_text(ROBOT.replace("wrist: {height: 120, width: 160", "wrist: {height: 100, width: 100"))
    done = run(films, *BOTH, "--robot", str(robot))
    assert done.returncode == 1
    assert (
        "  1. wrist: PROBLEM: camera wrist: /dev/video11 does not offer 100x100, but YUYV 320x240"
        in done.stdout
    )
    assert "  2. front: 160x120 RGB" in done.stdout
    resized = run(films, *BOTH, "--robot", str(robot), "--resize")
    assert resized.returncode == 0
    assert "YUYV 160x120 at 30 Hz, resized to 100x100 with another shape" in resized.stdout


def test_a_camera_that_is_gone_is_a_problem(films: tuple[Filming, Filming]) -> None:
    films[1].ended.set()
    films[1].writer.unplug()
    done = run(films, *BOTH)
    assert done.returncode == 1
    assert f"{WRIST}  ?\n    PROBLEM  there is no such device" in done.stdout
    assert "wrist: PROBLEM: camera wrist: /dev/video11: there is no such device" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--camera", "front=0"), "a camera is not named by its index"),
        (("--camera", "front"), "expected ROLE=SOURCE"),
        (("--robot", "so101", "--camera", "front=/dev/video98"), "camera wrist has no source"),
    ],
)
def test_wrong_options_are_one_line(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cameras", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("molmoact2-edge cameras: ")
    assert message in error
    assert error.count("\n") == 1
