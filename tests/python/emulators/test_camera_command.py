"""``molmoact2-edge emulate camera`` in its process, and clients in theirs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulators.processes import emulator
from lerobot_python import LEROBOT_PYTHON, REPOSITORY, needs_lerobot

from molmoact2_edge.errors import InputError
from molmoact2_emulators.camera_frames import FrameReader
from molmoact2_emulators.camera_picture import read_number
from molmoact2_emulators.camera_shim import shim_environment, shim_path

PATIENCE_S = 60.0

CLIENT = """
import sys, cv2
from molmoact2_emulators.camera_picture import read_number
capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_V4L2)
numbers = [read_number(capture.read()[1]) for _ in range(10)]
print(numbers[0], numbers[-1], int(capture.get(3)), int(capture.get(4)))
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not"
        time.sleep(0.01)


def test_its_second_line_starts_a_client_that_finds_it() -> None:
    pytest.importorskip("cv2")
    command = [
        sys.executable,
        "-m",
        "molmoact2_edge",
        "emulate",
        "camera",
        "--size",
        "160x120",
        "--rate",
        "50",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        device = process.stdout.readline().strip()
        variables = dict(word.split("=", 1) for word in process.stdout.readline().split())
        assert device == "/dev/video10"
        assert set(variables) == {"LD_PRELOAD", "MOLMOACT2_V4L2"}
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, device],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        first, last, width, height = map(int, client.stdout.split())
        assert last - first >= 9
        assert (width, height) == (160, 120)
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


def test_faults_from_a_script_and_from_standard_input(tmp_path: Path) -> None:
    frames, script = tmp_path / "frames", tmp_path / "faults"
    script.write_text("0 freeze duration=1000\n")
    options = ("--frames", str(frames), "--size", "160x120", "--rate", "50", "--faults", str(script))
    with emulator("camera", *options) as camera:
        assert camera.address == "/dev/video10"
        reader = FrameReader(frames)
        wait_for(lambda: reader.written > 3)
        frozen = reader.newest()
        wait_for(lambda: reader.written > 6)
        still = reader.newest()
        assert frozen is not None
        assert still is not None
        assert read_number(frozen.image) == read_number(still.image)
        camera.fault("clear freeze")
        camera.fault("unplug duration=0.2")
        wait_for(lambda: not reader.plugged)
        wait_for(lambda: reader.plugged)
        moving = read_number(still.image)
        wait_for(lambda: (frame := reader.newest()) is not None and read_number(frame.image) != moving)
    assert not reader.plugged
    assert not frames.exists()
    reader.close()


def test_a_picture_from_a_file_is_shown_in_the_size_that_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from PIL import Image

    Image.new("RGB", (320, 240), (200, 30, 60)).save(tmp_path / "table.png")
    options = (
        "--source",
        str(tmp_path / "table.png"),
        "--frames",
        str(tmp_path / "frames"),
        "--size",
        "64x48",
    )
    with emulator("camera", *options):
        reader = FrameReader(tmp_path / "frames")
        wait_for(lambda: reader.written > 0)
        frame = reader.newest()
        assert frame is not None
        assert frame.image.shape == (48, 64, 3)
        assert (frame.image == (200, 30, 60)).all()
        reader.close()


def test_the_environment_names_devices_and_files(tmp_path: Path) -> None:
    variables = shim_environment({"/dev/video10": tmp_path / "a", "/dev/video11": tmp_path / "b"})
    assert variables["LD_PRELOAD"] == str(shim_path())
    assert variables["MOLMOACT2_V4L2"] == f"/dev/video10={tmp_path}/a,/dev/video11={tmp_path}/b"
    for device, frames in (("/dev/video=1", "a"), ("/dev/video1,2", "a"), ("/dev/video1", "a,b")):
        with pytest.raises(InputError, match=re.escape("have no comma")):
            shim_environment({device: frames})


@pytest.mark.parametrize("options", [("--size", "640"), ("--size", "wide"), ("--rate", "fast")])
def test_options_that_make_no_sense(options: tuple[str, str]) -> None:
    command = [sys.executable, "-m", "molmoact2_edge", "emulate", "camera", *options]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert options[0] in done.stderr


@pytest.mark.slow
@needs_lerobot
def test_lerobot_s_own_camera(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    with emulator("camera", "--frames", str(frames)) as camera:
        done = subprocess.run(
            [str(LEROBOT_PYTHON), str(REPOSITORY / "tools/clients/lerobot_camera.py"), camera.address],
            env={**os.environ, **shim_environment({camera.address: frames})},
            capture_output=True,
            text=True,
            timeout=5 * PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["shape"] == [480, 640, 3]
    assert report["different"] == report["frames"] == 30
    # Each picture repeats the row of cells, of which the client kept one channel.
    first, last = (
        read_number(np.repeat(np.array(strip, np.uint8)[None, :, None], 480, axis=0).repeat(3, axis=2))
        for strip in report["strips"]
    )
    assert first is not None
    assert last is not None
    assert last - first >= 29
