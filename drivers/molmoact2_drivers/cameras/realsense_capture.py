"""Color frames of an Intel RealSense camera, through Intel's SDK."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from molmoact2_drivers.cameras.capture import Opened, Reading, Wanted
from molmoact2_drivers.cameras.exposure_time import ExposureClock
from molmoact2_drivers.cameras.offers import Offer, choose
from molmoact2_drivers.cameras.picture import fitted, resizing
from molmoact2_drivers.protocol import CameraCapabilities, Frame
from molmoact2_edge.errors import MissingExtraError, RobotError

_RGB = "RGB8"


def load_sdk() -> Any:
    """Return the module ``pyrealsense2``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyrealsense2
    except ImportError as error:
        raise MissingExtraError(
            f"RealSense cameras need Intel's SDK: pip install molmoact2-edge[realsense] ({error})"
        ) from error
    return pyrealsense2


class RealSenseCapture:
    """A `Capture` of the camera with a serial number.

    With the SDK's global time a frame has the computer's time of its exposure; a stamp by the camera's own clock tells
    nothing here, and the frame's arrival takes its place.
    """

    def __init__(
        self, serial: str, sdk: Callable[[], Any] = load_sdk, clock: ExposureClock | None = None
    ) -> None:
        self._serial = serial
        self._load = sdk
        self._clock = clock or ExposureClock()
        self._sdk: Any = None
        self._pipeline: Any = None
        self._wanted = Wanted(None, None, 30.0)
        self._number: int | None = None

    def open(self, wanted: Wanted) -> Opened:
        """Find the camera, agree on a size and start its color stream."""
        self._sdk = sdk = self._load()
        self._wanted = wanted
        self._number = None
        try:
            sensor = self._color_sensor()
            choice = choose(self._offers(sensor), wanted, (_RGB,), f"RealSense {self._serial}")
            if sensor.supports(sdk.option.global_time_enabled):
                sensor.set_option(sdk.option.global_time_enabled, 1.0)
            offer = choice.offer
            config = sdk.config()
            config.enable_device(self._serial)
            config.enable_stream(
                sdk.stream.color, offer.width, offer.height, sdk.format.rgb8, round(choice.rate_hz)
            )
            pipeline = sdk.pipeline()
            pipeline.start(config)
        except RuntimeError as error:  # all that the SDK raises
            raise RobotError(f"RealSense {self._serial} does not start: {error}") from error
        self._pipeline = pipeline
        height, width = wanted.size or offer.size
        return Opened(
            CameraCapabilities(height, width, choice.rate_hz),
            f"{choice}{resizing(offer.size, wanted)}",
        )

    def read(self, timeout_s: float) -> Reading:
        """Wait for frames, and take the newest."""
        if self._pipeline is None:
            raise RobotError(f"RealSense {self._serial} is not open")
        dropped = 0
        color: Any = None
        try:
            came, frames = self._pipeline.try_wait_for_frames(round(timeout_s * 1000))
            while came:
                color = frames.get_color_frame()
                dropped += self._count(color)
                frames = self._pipeline.poll_for_frames()
                came = bool(frames)
            if color is None:
                self._check_presence()
                return Reading()
            picture = np.array(np.asanyarray(color.get_data()), dtype=np.uint8)
            time_ns = self._exposed_ns(color)
        except RuntimeError as error:
            raise RobotError(f"RealSense {self._serial} is lost: {error}") from error
        return Reading(Frame(fitted(picture, self._wanted), time_ns, int(color.get_frame_number())), dropped)

    def close(self) -> None:
        """Stop the stream."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # it is gone already
                pipeline.stop()

    def _color_sensor(self) -> Any:
        devices = self._devices()
        if self._serial not in devices:
            found = ", ".join(sorted(devices)) or "none"
            raise RobotError(f"there is no RealSense {self._serial}; connected are: {found}")
        return devices[self._serial].first_color_sensor()

    def _check_presence(self) -> None:
        # The SDK says nothing of a camera that is gone.
        if self._serial not in self._devices():
            raise RobotError(f"RealSense {self._serial} is lost: it is not connected any more")

    def _devices(self) -> dict[str, Any]:
        sdk = self._sdk
        devices = sdk.context().query_devices()
        return {device.get_info(sdk.camera_info.serial_number): device for device in devices}

    def _offers(self, sensor: Any) -> list[Offer]:
        sdk = self._sdk
        rates: dict[tuple[int, int], set[float]] = {}
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() == sdk.stream.color and profile.format() == sdk.format.rgb8:
                video = profile.as_video_stream_profile()
                rates.setdefault((video.height(), video.width()), set()).add(float(profile.fps()))
        return [Offer(_RGB, *size, tuple(sorted(found, reverse=True))) for size, found in rates.items()]

    def _count(self, color: Any) -> int:
        number = int(color.get_frame_number())
        last, self._number = self._number, number
        return 0 if last is None else max(0, number - last - 1)

    def _exposed_ns(self, color: Any) -> int:
        domain = color.get_frame_timestamp_domain()
        if domain == self._sdk.timestamp_domain.hardware_clock:
            return time.monotonic_ns()
        return self._clock.exposed_ns(round(color.get_timestamp() * 1e6))
