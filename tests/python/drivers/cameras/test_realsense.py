"""RealSense: all but Intel's SDK, in whose place stands one that says what the test wants."""

from __future__ import annotations

import builtins
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.exposure_time import ExposureClock
from molmoact2_drivers.cameras.realsense_capture import RealSenseCapture, load_sdk
from molmoact2_edge.errors import MissingExtraError, RobotError

MONOTONIC_NS, REALTIME_NS = 5_000_000_000_000, 1_700_000_000_000_000_000
WANTED = Wanted(480, 640, 30.0)


class Color:
    """A color frame."""

    def __init__(self, number: int, stamp_ms: float, domain: str = "global_time") -> None:
        self.number, self.stamp_ms, self.domain = number, stamp_ms, domain

    def get_data(self) -> Any:
        return np.full((480, 640, 3), self.number % 256, np.uint8)

    def get_frame_number(self) -> int:
        return self.number

    def get_timestamp(self) -> float:
        return self.stamp_ms

    def get_frame_timestamp_domain(self) -> str:
        return self.domain


class Frames:
    """A set of frames, which is true where it holds any."""

    def __init__(self, color: Color | None = None) -> None:
        self.color = color

    def __bool__(self) -> bool:
        return self.color is not None

    def get_color_frame(self) -> Color | None:
        return self.color


class Sdk:
    """What of pyrealsense2 is used."""

    stream = SimpleNamespace(color="color", depth="depth")
    format = SimpleNamespace(rgb8="rgb8", yuyv="yuyv")
    option = SimpleNamespace(global_time_enabled="global_time_enabled")
    camera_info = SimpleNamespace(serial_number="serial_number")
    timestamp_domain = SimpleNamespace(
        hardware_clock="hardware_clock", system_time="system_time", global_time="global_time"
    )

    def __init__(self) -> None:
        self.serials = ["111", "222"]
        self.waiting: list[Color] = []
        self.enabled: list[Any] = []
        self.options: dict[str, float] = {}
        self.stopped = 0
        self.fails = False

    def config(self) -> Any:
        enable = lambda *values: self.enabled.append(values)  # noqa: E731
        return SimpleNamespace(enable_device=enable, enable_stream=enable)

    def context(self) -> Any:
        return SimpleNamespace(query_devices=lambda: [self._device(serial) for serial in self.serials])

    def pipeline(self) -> Any:
        def stop() -> None:
            self.stopped += 1
            raise RuntimeError("stop() cannot be called before start()")

        def wait(timeout_ms: int) -> tuple[bool, Frames]:
            if self.fails:
                raise RuntimeError("device disconnected")
            return bool(self.waiting), poll()

        def poll() -> Frames:
            return Frames(self.waiting.pop(0) if self.waiting else None)

        return SimpleNamespace(
            start=lambda config: None, stop=stop, try_wait_for_frames=wait, poll_for_frames=poll
        )

    def _device(self, serial: str) -> Any:
        return SimpleNamespace(get_info=lambda _: serial, first_color_sensor=self._sensor)

    def _sensor(self) -> Any:
        profiles = [
            ("color", "rgb8", 480, 640, 30),
            ("color", "rgb8", 480, 640, 60),
            ("color", "rgb8", 720, 1280, 30),
            ("color", "yuyv", 240, 320, 30),
            ("depth", "rgb8", 240, 320, 30),
        ]
        return SimpleNamespace(
            get_stream_profiles=lambda: [self._profile(*values) for values in profiles],
            supports=lambda option: True,
            set_option=self.options.__setitem__,
        )

    @staticmethod
    def _profile(stream: str, pixel_format: str, height: int, width: int, fps: int) -> Any:
        video = SimpleNamespace(height=lambda: height, width=lambda: width)
        return SimpleNamespace(
            stream_type=lambda: stream,
            format=lambda: pixel_format,
            fps=lambda: fps,
            as_video_stream_profile=lambda: video,
        )


def opened(sdk: Sdk, wanted: Wanted = WANTED) -> RealSenseCapture:
    clock = ExposureClock(lambda: MONOTONIC_NS, lambda: REALTIME_NS)
    capture = RealSenseCapture("111", lambda: sdk, clock)
    assert capture.open(wanted).capabilities.height == wanted.height
    return capture


def test_the_camera_of_the_serial_number_is_started_with_global_time() -> None:
    sdk = Sdk()
    capture = RealSenseCapture("111", lambda: sdk)
    assert capture.open(WANTED).description == "RGB8 640x480 at 30 Hz"
    assert sdk.enabled == [("111",), ("color", 640, 480, "rgb8", 30)]
    assert sdk.options == {"global_time_enabled": 1.0}
    capture.close()
    capture.close()
    assert sdk.stopped == 1


def test_the_newest_frame_has_the_time_of_its_exposure() -> None:
    sdk = Sdk()
    capture = opened(sdk)
    sdk.waiting = [Color(number, REALTIME_NS * 1e-6 - 20.0 + number) for number in (5, 6, 9)]
    reading = capture.read(0.1)
    assert reading.frame is not None
    assert (reading.frame.sequence, reading.dropped) == (9, 2)
    # float64 of milliseconds since 1970 is exact to a quarter of a microsecond.
    assert abs(reading.frame.time_ns - (MONOTONIC_NS - 11_000_000)) <= 1_000
    assert reading.frame.image.shape == (480, 640, 3)
    assert (reading.frame.image == 9).all()


def test_a_stamp_of_the_camera_s_own_clock_is_its_arrival() -> None:
    sdk = Sdk()
    capture = opened(sdk)
    sdk.waiting = [Color(1, 123.0, "hardware_clock")]
    before_ns = time.monotonic_ns()
    frame = capture.read(0.1).frame
    assert frame is not None
    assert before_ns <= frame.time_ns <= time.monotonic_ns()


def test_nothing_yet_and_gone() -> None:
    sdk = Sdk()
    capture = opened(sdk)
    assert capture.read(0.0).frame is None
    sdk.serials = ["222"]
    with pytest.raises(RobotError, match="RealSense 111 is lost: it is not connected any more"):
        capture.read(0.0)
    sdk.fails = True
    with pytest.raises(RobotError, match="RealSense 111 is lost: device disconnected"):
        capture.read(0.0)
    capture.close()
    with pytest.raises(RobotError, match="is not open"):
        capture.read(0.0)


def test_sizes_are_the_wanted_ones_or_refused() -> None:
    sdk = Sdk()
    with pytest.raises(RobotError, match=r"RealSense 111 does not offer 320x240, but RGB8 640x480, 1280x720"):
        RealSenseCapture("111", lambda: sdk).open(Wanted(240, 320, 30.0))
    capture = opened(sdk, Wanted(240, 320, 30.0, resize=True))
    sdk.waiting = [Color(1, 0.0)]
    frame = capture.read(0.1).frame
    assert frame is not None
    assert frame.image.shape == (240, 320, 3)


def test_another_camera_is_not_taken_in_its_place() -> None:
    sdk = Sdk()
    with pytest.raises(RobotError, match="there is no RealSense 333; connected are: 111, 222"):
        RealSenseCapture("333", lambda: sdk).open(WANTED)


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pyrealsense2":
            raise ImportError("No module named 'pyrealsense2'")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install molmoact2-edge\[realsense\]"):
        load_sdk()
