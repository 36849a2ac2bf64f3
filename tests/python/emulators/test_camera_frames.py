"""The frame file: what is written is read, whole, by whoever looks, and nothing else is."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from molmoact2_edge.errors import InputError
from molmoact2_emulators.camera_frames import FrameReader, FrameWriter


def picture(value: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0, name="Wrist")
    reader = FrameReader(tmp_path / "frames")
    assert (reader.width, reader.height, reader.rate_hz, reader.name) == (8, 6, 30.0, "Wrist")
    assert reader.newest() is None
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    writer.write(pixels, time_ns=123_456_789_012)
    frame = reader.newest()
    assert frame is not None
    np.testing.assert_array_equal(frame.image, pixels)
    assert (frame.time_ns, frame.sequence, frame.damaged, frame.jpeg) == (123_456_789_012, 0, False, None)
    reader.close()
    writer.close()


def test_a_gap_in_the_numbers_is_a_lost_frame(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    reader = FrameReader(tmp_path / "frames")
    numbers = []
    for value in range(10):
        if value % 3 == 2:
            writer.skip()
            continue
        writer.write(picture(value), value)
        frame = reader.newest()
        assert frame is not None
        numbers.append(frame.sequence)
    assert numbers == [0, 1, 3, 4, 6, 7, 9]
    assert reader.written == 7
    reader.close()
    writer.close()


def test_a_device_that_was_gone_counts_anew(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    reader = FrameReader(tmp_path / "frames")
    writer.write(picture(1), 1)
    assert reader.plugged
    writer.unplug()
    writer.unplug()
    assert not reader.plugged
    writer.plug()
    assert reader.plugged
    writer.write(picture(2), 2)
    frame = reader.newest()
    assert frame is not None
    assert frame.sequence == 0
    writer.close()
    assert not reader.plugged
    assert not (tmp_path / "frames").exists()
    reader.close()


def test_a_damaged_frame_is_marked_and_its_jpeg_is_cut(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 64, 48, 30.0, mjpg=True)
    reader = FrameReader(tmp_path / "frames")
    writer.write(picture(90, 48, 64), 1)
    whole = reader.newest()
    writer.write(picture(90, 48, 64), 2, damaged=True)
    damaged = reader.newest()
    assert whole is not None
    assert damaged is not None
    assert whole.jpeg is not None
    assert damaged.jpeg is not None
    assert whole.jpeg.endswith(b"\xff\xd9")
    assert damaged.jpeg == whole.jpeg[: len(whole.jpeg) // 2]
    assert (whole.damaged, damaged.damaged) == (False, True)
    reader.close()
    writer.close()


def test_no_reader_ever_sees_half_a_frame(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 64, 48, 1000.0)
    reader = FrameReader(tmp_path / "frames")
    ended = threading.Event()

    def write() -> None:
        value = 0
        while not ended.is_set():
            writer.write(picture(value % 256, 48, 64), value)
            value += 1

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    last = -1
    while seen < 500:
        frame = reader.newest()
        if frame is None:
            continue
        seen += 1
        assert (frame.image == frame.time_ns % 256).all()
        assert frame.sequence == frame.time_ns >= last
        last = frame.time_ns
    ended.set()
    thread.join()
    reader.close()
    writer.close()


def test_a_new_writer_leaves_the_old_one_s_readers_alone(tmp_path: Path) -> None:
    first = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    first.write(picture(1), 1)
    old = FrameReader(tmp_path / "frames")
    second = FrameWriter(tmp_path / "frames", 64, 48, 30.0)
    frame = old.newest()
    assert frame is not None
    assert (frame.image == 1).all()
    new = FrameReader(tmp_path / "frames")
    assert (new.width, new.height) == (64, 48)
    for opened in (old, new, first, second):
        opened.close()


@pytest.mark.parametrize("size", [(7, 6), (8, 5), (0, 6), (8, 4098)])
def test_sizes_that_no_camera_has_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="width and height are even"):
        FrameWriter(tmp_path / "frames", *size, 30.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, 1001.0, float("nan")])
def test_rates_that_no_camera_has_are_refused(tmp_path: Path, rate_hz: float) -> None:
    with pytest.raises(InputError, match="rate is above 0"):
        FrameWriter(tmp_path / "frames", 8, 6, rate_hz)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    with pytest.raises(InputError, match=r"uint8 \(6, 8, 3\), got uint8 \(8, 6, 3\)"):
        writer.write(picture(0, 8, 6), 0)
    with pytest.raises(InputError, match="got float32"):
        writer.write(picture(0).astype(np.float32), 0)  # type: ignore[arg-type]
    writer.close()


def test_what_is_no_frame_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame file to read"):
        FrameReader(tmp_path / "nothing")
    other = tmp_path / "other"
    other.write_bytes(b"x" * 10_000)
    with pytest.raises(InputError, match="expected a frame file of version 1"):
        FrameReader(other)
    writer = FrameWriter(tmp_path / "frames", 8, 6, 30.0)
    data = bytearray((tmp_path / "frames").read_bytes())
    (tmp_path / "short").write_bytes(data[:5000])
    with pytest.raises(InputError, match="cut off"):
        FrameReader(tmp_path / "short")
    struct.pack_into("<I", data, 8, 2)
    (tmp_path / "later").write_bytes(data)
    with pytest.raises(InputError, match="version 1"):
        FrameReader(tmp_path / "later")
    writer.close()
