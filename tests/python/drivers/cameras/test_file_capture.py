"""Videos and pictures at their own pace."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from molmoact2_drivers.cameras.capture import SourceEndedError, Wanted
from molmoact2_drivers.cameras.file_capture import FileCapture
from molmoact2_edge.errors import RobotError
from molmoact2_emulators.camera_picture import NumberedPicture, read_number

cv2 = pytest.importorskip("cv2")

FRAMES = 12
RATE_HZ = 100.0
AS_IT_IS = Wanted(None, None, 30.0)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("video") / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, (160, 120))
    picture = NumberedPicture(160, 120)
    for number in range(FRAMES):
        writer.write(picture.draw(number)[..., ::-1])
    writer.release()
    return path


def frames_of(capture: FileCapture, count: int) -> list[tuple[int, int | None, int]]:
    found: list[tuple[int, int | None, int]] = []
    while len(found) < count:
        reading = capture.read(1.0)
        if reading.frame is not None:
            found.append((reading.frame.sequence, read_number(reading.frame.image), reading.frame.time_ns))
    return found


def test_a_video_is_played_at_its_rate_again_and_again(video: str) -> None:
    capture = FileCapture(video)
    opened = capture.open(AS_IT_IS)
    assert opened.capabilities.rate_hz == RATE_HZ
    assert opened.description == "video 160x120 at 100 Hz"
    frames = frames_of(capture, 2 * FRAMES)
    first, _, begin_ns = frames[0]
    assert frames[-1][2] <= time.monotonic_ns()
    for sequence, number, time_ns in frames:
        assert number == sequence % FRAMES
        assert time_ns == begin_ns + (sequence - first) * round(1e9 / RATE_HZ)
    capture.close()


def test_a_video_played_once_ends(video: str) -> None:
    capture = FileCapture(video, once=True)
    capture.open(AS_IT_IS)
    with pytest.raises(SourceEndedError, match="has come to its end"):
        frames_of(capture, FRAMES + 1)
    capture.close()


def test_what_is_not_read_in_time_is_passed_over(video: str) -> None:
    capture = FileCapture(video)
    capture.open(AS_IT_IS)
    ((first, _, _),) = frames_of(capture, 1)
    time.sleep(1.5 * FRAMES / RATE_HZ)
    reading = capture.read(1.0)
    assert reading.frame is not None
    assert reading.dropped >= FRAMES
    assert reading.frame.sequence == first + reading.dropped + 1
    assert read_number(reading.frame.image) == reading.frame.sequence % FRAMES
    capture.close()


def test_a_frame_that_is_not_due_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "front.png"), np.zeros((4, 4, 3), np.uint8))
    capture = FileCapture(str(tmp_path / "front.png"))
    capture.open(Wanted(4, 4, 0.001))
    assert capture.read(0.0).frame is not None
    assert capture.read(0.01).frame is None  # due in a quarter of an hour
    capture.close()


def test_a_picture_comes_at_the_wanted_rate(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    path = tmp_path / "front.png"
    cv2.imwrite(str(path), rgb[..., ::-1])
    capture = FileCapture(str(path))
    assert capture.open(Wanted(120, 160, 200.0)).description == "picture 160x120 at 200 Hz"
    first, second = capture.read(1.0).frame, capture.read(1.0).frame
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.image, rgb)
    assert (second.time_ns - first.time_ns) % 5_000_000 == 0
    capture.close()
    once = FileCapture(str(path), once=True)
    once.open(Wanted(120, 160, 200.0))
    assert once.read(1.0).frame is not None
    with pytest.raises(SourceEndedError, match="has been shown"):
        once.read(1.0)
    once.close()


def test_sizes_are_the_wanted_ones_or_refused(video: str) -> None:
    with pytest.raises(RobotError, match="gives 160x120, wanted is 80x60"):
        FileCapture(video).open(Wanted(60, 80, 30.0))
    capture = FileCapture(video)
    assert capture.open(Wanted(60, 80, 30.0, resize=True)).description.endswith("resized to 80x60")
    frame = capture.read(1.0).frame
    assert frame is not None
    assert frame.image.shape == (60, 80, 3)
    assert read_number(frame.image) == frame.sequence
    capture.close()


@pytest.mark.filterwarnings("default")
def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="there is no file"):
        FileCapture(str(tmp_path / "nothing.mp4")).open(AS_IT_IS)
    for name in ("text.mp4", "text.png"):
        (tmp_path / name).write_text("no pictures here")
        with pytest.raises(RobotError, match=r"is no (video|picture) that OpenCV can read"):
            FileCapture(str(tmp_path / name)).open(AS_IT_IS)
    with pytest.raises(RobotError, match="is not open"):
        FileCapture("film.avi").read(0.0)
