"""Unmodified clients of others, and the kernel's interface itself, on an emulated camera. Run by test_camera_clients.py
in a process that loads the shim.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import select
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import linuxpy.video.device as linuxpy
import numpy as np
import pytest
from emulators.filming import Filming, filming
from emulators.shimmed import DEVICE, FRAMES
from linuxpy.device import is_device_file

from molmoact2_drivers.cameras.v4l2_device import VideoDevice
from molmoact2_emulators.camera_frames import FrameWriter
from molmoact2_emulators.camera_picture import read_number

FRAME_FILE = Path(os.environ[FRAMES])
YUYV, MJPG = (int.from_bytes(name, "little") for name in (b"YUYV", b"MJPG"))


@pytest.fixture
def film() -> Iterator[Filming]:
    with filming(FRAME_FILE, mjpg=True) as film:
        yield film


def opencv() -> cv2.VideoCapture:
    capture = cv2.VideoCapture(DEVICE, cv2.CAP_V4L2)
    assert capture.isOpened()
    return capture


@contextmanager
def fails_with(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as raised:
        yield
    assert raised.value.errno == number


def read_until(device: VideoDevice, deadline: float) -> None:
    while time.monotonic() < deadline:
        device.wait(1.0)
        buffer = device.dequeue()
        if buffer is not None:
            device.queue(buffer.index)


def numbers_of(capture: cv2.VideoCapture, count: int) -> list[int | None]:
    numbers = []
    for _ in range(count):
        came, bgr = capture.read()
        assert came
        numbers.append(read_number(bgr))
    return numbers


def test_opencv_reads_every_frame_of_a_30_hz_camera() -> None:
    with filming(FRAME_FILE, 640, 480, 30.0):
        capture = opencv()
        assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (640, 480)
        assert capture.get(cv2.CAP_PROP_FPS) == 30.0
        numbers = numbers_of(capture, 30)
        assert None not in numbers
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == 30
        # A second at 30 Hz; opencv was late for a frame where the computer was.
        assert numbers[-1] - numbers[0] <= 40
        capture.release()


def test_opencv_gets_the_stamps_of_the_exposures(film: Filming) -> None:
    capture = opencv()
    before = time.monotonic()
    stamps = []
    for _ in range(5):
        assert capture.grab()
        stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3)
    assert stamps == sorted(stamps)
    assert before - 1.0 <= stamps[0] <= stamps[-1] <= time.monotonic()
    capture.release()


def test_opencv_takes_the_other_format_and_size(film: Filming) -> None:
    capture = opencv()
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, 80)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, 60)
    came, bgr = capture.read()
    assert came
    assert bgr.shape == (60, 80, 3)
    assert read_number(bgr) is not None
    capture.release()
    capture = opencv()
    assert capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    assert int(capture.get(cv2.CAP_PROP_FOURCC)) == MJPG
    assert None not in numbers_of(capture, 3)
    capture.release()


def test_opencv_finds_nothing_where_the_camera_is_unplugged(film: Filming) -> None:
    film.writer.unplug()
    film.ended.set()
    capture = cv2.VideoCapture(DEVICE, cv2.CAP_V4L2)
    assert not capture.isOpened()


def test_linuxpy_reads_numbers_and_stamps(film: Filming) -> None:
    with linuxpy.Device(DEVICE) as device:
        assert device.info.card == "Filming"
        assert linuxpy.Capability.VIDEO_CAPTURE in device.info.device_capabilities
        sizes = {(size.pixel_format.name, size.width, size.height) for size in device.info.frame_types}
        assert sizes == {("YUYV", 160, 120), ("YUYV", 80, 60), ("MJPEG", 160, 120)}
        assert {float(size.max_fps) for size in device.info.frame_types} == {100.0, 50.0}
        capture = linuxpy.VideoCapture(device)
        capture.set_format(160, 120, "YUYV")
        with capture:
            frames = []
            for frame in capture:
                rgb = cv2.cvtColor(frame.array.reshape(120, 160, 2), cv2.COLOR_YUV2RGB_YUYV)
                frames.append((frame.frame_nb, read_number(rgb), frame.timestamp, frame.flags))
                if len(frames) == 10:
                    break
    sequences, numbers, stamps, flags = zip(*frames, strict=True)
    # Both count frames of the camera, from different beginnings: lost ones are gaps in both.
    assert {number - sequence for number, sequence in zip(numbers, sequences, strict=True)} == {
        numbers[0] - sequences[0]
    }
    assert sequences[0] >= 0
    assert list(stamps) == sorted(stamps)
    assert all(linuxpy.BufferFlag.TIMESTAMP_MONOTONIC in one for one in flags)


def test_a_dropped_frame_is_a_gap_for_linuxpy(film: Filming) -> None:
    film.fault("drop_frames probability=0.5")
    with linuxpy.Device(DEVICE) as device, linuxpy.VideoCapture(device) as capture:
        sequences = []
        for frame in capture:
            sequences.append(frame.frame_nb)
            if len(sequences) == 12:
                break
    # Twelve frames in a row without a loss come once in 2,000 times, and the draws are always the same.
    assert sequences[-1] - sequences[0] > 11


def open_raw(blocking: bool = False) -> int:
    return os.open(DEVICE, os.O_RDWR | (0 if blocking else os.O_NONBLOCK))


def test_the_device_is_a_character_device_to_everybody(film: Filming) -> None:
    assert stat.S_ISCHR(os.stat(DEVICE).st_mode)
    assert os.major(os.stat(DEVICE).st_rdev) == 81
    assert os.minor(os.stat(DEVICE).st_rdev) == 10
    assert os.access(DEVICE, os.R_OK | os.W_OK)
    assert Path(DEVICE).exists()
    assert is_device_file(DEVICE)
    film.writer.unplug()
    film.ended.set()
    assert not Path(DEVICE).exists()
    with pytest.raises(FileNotFoundError):
        open_raw()


def test_what_a_camera_does_not_have_is_refused_as_drivers_refuse_it(film: Filming) -> None:
    descriptor = open_raw()
    with fails_with(errno.EINVAL):
        os.read(descriptor, 1)  # it streams, and does nothing else
    query_control, get_standard, private = 0xC0445624, 0x80085617, 0xC00456FF
    for request, expected in (
        (query_control, errno.EINVAL),
        (get_standard, errno.ENOTTY),
        (private, errno.ENOTTY),
    ):
        with fails_with(expected):
            fcntl.ioctl(descriptor, request, bytearray(0x44))
    os.close(descriptor)


def test_frames_wait_in_the_order_of_their_exposures(film: Filming) -> None:
    device = VideoDevice(DEVICE)
    device.set_format("YUYV", 120, 160)
    device.start(4)
    time.sleep(0.2)  # four buffers fill, later frames are lost
    first = []
    while (buffer := device.dequeue()) is not None:
        first.append(buffer.sequence)
        index = buffer.index
    assert first == [0, 1, 2, 3]
    device.queue(index)
    assert device.wait(5.0)
    after = device.dequeue()
    assert after is not None
    assert after.sequence > 4
    del buffer, after
    device.close()


def test_readiness_is_told_by_poll_select_and_epoll(film: Filming) -> None:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    assert select.select([descriptor], [], [], 0.05)[0] == []
    os.close(descriptor)
    device = VideoDevice(DEVICE)
    device.set_format("YUYV", 120, 160)
    device.start(2)
    descriptor = device._descriptor
    epoll = select.epoll()
    epoll.register(descriptor, select.EPOLLIN)
    assert epoll.poll(5.0) == [(descriptor, select.EPOLLIN)]
    assert select.select([descriptor], [], [], 5.0)[0] == [descriptor]
    assert device.wait(5.0)
    epoll.close()
    device.close()


def test_a_blocking_read_waits_for_its_frame(film: Filming) -> None:
    device = VideoDevice(DEVICE)
    device.set_format("YUYV", 120, 160)
    os.set_blocking(device._descriptor, True)
    device.start(2)
    numbers = []
    for _ in range(3):
        buffer = device.dequeue()
        assert buffer is not None
        numbers.append(buffer.sequence)
        device.queue(buffer.index)
    assert numbers == sorted(set(numbers))
    del buffer
    device.close()


def test_half_the_rate_is_every_second_frame(film: Filming) -> None:
    device = VideoDevice(DEVICE)
    device.set_format("YUYV", 120, 160)
    assert device.set_rate(50.0) == 50.0
    device.start(4)
    found = []
    while len(found) < 6:
        assert device.wait(5.0)
        buffer = device.dequeue()
        if buffer is None:
            continue
        rgb = cv2.cvtColor(
            np.frombuffer(buffer.data, np.uint8).reshape(120, 160, 2).copy(), cv2.COLOR_YUV2RGB_YUYV
        )
        found.append((buffer.sequence, read_number(rgb)))
        device.queue(buffer.index)
    first_sequence, first_number = found[0]
    assert first_number is not None
    for sequence, number in found:
        assert number == first_number + 2 * (sequence - first_sequence)
    del buffer
    device.close()


def test_one_client_streams_and_the_other_is_told_so(film: Filming) -> None:
    first, second = VideoDevice(DEVICE), VideoDevice(DEVICE)
    first.set_format("YUYV", 120, 160)
    first.start(2)
    with fails_with(errno.EBUSY):
        first.set_format("YUYV", 60, 80)
    with fails_with(errno.EBUSY):
        second.start(2)
    first.close()
    second.start(2)
    assert second.wait(5.0)
    second.close()


def test_a_device_that_is_unplugged_says_so_to_who_waits(film: Filming) -> None:
    device = VideoDevice(DEVICE)
    device.set_format("YUYV", 120, 160)
    device.start(2)
    assert device.wait(5.0)
    film.fault("unplug")
    deadline = time.monotonic() + 10.0
    with fails_with(errno.ENODEV):
        read_until(device, deadline)
    with fails_with(errno.ENODEV):
        device.identify()
    # Plugged in again it is a new device: what was open stays lost.
    film.fault("clear unplug")
    while not film.writer.plugged:
        time.sleep(0.005)
    with fails_with(errno.ENODEV):
        device.identify()
    device.close()
    again = VideoDevice(DEVICE)
    assert again.identify()[0] == "Filming"
    again.close()


def test_damaged_frames_are_short_and_marked_or_a_broken_jpeg(film: Filming) -> None:
    film.fault("corrupt probability=1")
    for pixel_format, marked in (("YUYV", True), ("MJPG", False)):
        device = VideoDevice(DEVICE)
        device.set_format(pixel_format, 120, 160)
        device.start(2)
        buffer = None
        for _ in range(3):
            if buffer is not None:
                device.queue(buffer.index)
            assert device.wait(5.0)
            buffer = device.dequeue()
            assert buffer is not None
        assert buffer.error is marked
        data = bytes(buffer.data)
        if marked:
            assert len(data) == 120 * 160
        else:
            assert data.startswith(b"\xff\xd8")
            assert not data.endswith(b"\xff\xd9")
        del buffer
        device.close()


def test_pixels_are_the_textbook_s(film: Filming) -> None:
    film.ended.set()
    time.sleep(0.05)
    writer = FrameWriter(FRAME_FILE, 64, 48, 30.0)
    rgb = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    for scale in (1, 2):
        device = VideoDevice(DEVICE)
        device.set_format("YUYV", 48 // scale, 64 // scale)
        device.start(2)
        time.sleep(0.02)  # the device films from its start on
        while not device.wait(0.1):
            writer.write(rgb, time.monotonic_ns())
        buffer = device.dequeue()
        assert buffer is not None
        yuyv = np.frombuffer(buffer.data, np.uint8).reshape(48 // scale, 32 // scale, 4).astype(float)
        blocks = rgb.reshape(48 // scale, scale, 64 // scale, scale, 3).astype(float).mean(axis=(1, 3))
        # BT.601, written out: Y of each pixel, U and V of the mean of two neighbours.
        luma = 16 + blocks @ np.array([65.481, 128.553, 24.966]) / 255
        pairs = blocks.reshape(48 // scale, 32 // scale, 2, 3).mean(axis=2)
        blue = 128 + pairs @ np.array([-37.797, -74.203, 112.0]) / 255
        red = 128 + pairs @ np.array([112.0, -93.786, -18.214]) / 255
        expected = np.stack([luma[:, ::2], blue, luma[:, 1::2], red], axis=-1)
        # Coefficients in 1/256, and three roundings.
        assert np.abs(yuyv - expected).max() <= 2.0
        del buffer
        device.close()
    writer.close()


def test_a_process_that_is_started_meanwhile_leaves_the_camera_alone(film: Filming) -> None:
    capture = opencv()
    subprocess.run(["true"], check=True, close_fds=True)
    subprocess.run(["true"], check=True, close_fds=False)
    if os.fork() == 0:
        os.closerange(3, 64)
        os._exit(0)
    os.wait()
    assert None not in numbers_of(capture, 3)
    capture.release()


def test_mappings_outlive_their_device_as_in_the_kernel(film: Filming) -> None:
    descriptor = open_raw()
    request = struct.pack("=4I4x", 2, 1, 1, 0)
    fcntl.ioctl(descriptor, 0xC0145608, request)
    mapped = mmap.mmap(descriptor, 160 * 120 * 2, mmap.MAP_SHARED, mmap.PROT_READ, offset=0)
    with pytest.raises(OSError, match="Invalid argument"):
        mmap.mmap(descriptor, 4096, mmap.MAP_SHARED, mmap.PROT_READ, offset=1 << 20)
    os.close(descriptor)
    assert len(mapped[:]) == 160 * 120 * 2
    mapped.close()
