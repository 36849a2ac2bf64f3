"""Frames of a V4L2 device, with the driver's own time stamps and sequence numbers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from molmoact2_drivers.cameras.capture import Opened, Reading, Wanted
from molmoact2_drivers.cameras.exposure_time import ExposureClock
from molmoact2_drivers.cameras.offers import Choice, Offer, choose
from molmoact2_drivers.cameras.picture import (
    Picture,
    fitted,
    load_opencv,
    resizing,
    rgb_from_jpeg,
    rgb_from_yuyv,
)
from molmoact2_drivers.cameras.v4l2_device import DequeuedBuffer, VideoDevice
from molmoact2_drivers.protocol import CameraCapabilities, Frame
from molmoact2_edge.errors import RobotError

PIXEL_FORMATS = ("YUYV", "MJPG")
"""What can be converted; what costs no decoding first."""

# One that is filled, one that is read, and two for a late reader.
_BUFFERS = 4
_BY_ID = Path("/dev/v4l/by-id")


class V4l2Capture:
    """A `Capture` of a device path."""

    def __init__(self, path: str, clock: ExposureClock | None = None) -> None:
        self._path = path
        self._clock = clock or ExposureClock()
        self._device: VideoDevice | None = None
        self._wanted = Wanted(None, None, 30.0)
        self._pixel_format = ""
        self._size = (0, 0)
        self._row_bytes = 0
        self._sequence: int | None = None

    def open(self, wanted: Wanted) -> Opened:
        """Open the device, agree on a format and start it."""
        load_opencv()
        self._wanted = wanted
        try:
            self._device = VideoDevice(self._path)
            choice = choose(offers_of(self._device, self._path, wanted), wanted, PIXEL_FORMATS, self._path)
            rate_hz = self._start(self._device, choice)
        except OSError as error:
            self.close()
            raise RobotError(self._explained(error)) from error
        except RobotError:
            self.close()
            raise
        height, width = wanted.size or self._size
        described = f"{self._pixel_format} {self._size[1]}x{self._size[0]} at {rate_hz:g} Hz"
        return Opened(CameraCapabilities(height, width, rate_hz), described + resizing(self._size, wanted))

    def read(self, timeout_s: float) -> Reading:
        """Take all frames that are ready, and convert the newest."""
        device = self._device
        if device is None:
            raise RobotError(f"{self._path} is not open")
        newest: DequeuedBuffer | None = None
        dropped = damaged = 0
        try:
            device.wait(timeout_s)
            while (buffer := device.dequeue()) is not None:
                if self._sequence is not None:
                    dropped += max(0, buffer.sequence - self._sequence - 1)
                self._sequence = buffer.sequence
                if newest is not None:
                    device.queue(newest.index)
                newest = buffer
            if newest is None:
                return Reading(dropped=dropped)
            time_ns = self._clock.exposed_ns(newest.time_ns)
            picture = None if newest.error else self._converted(newest.data)
            newest.data.release()
            device.queue(newest.index)
        except OSError as error:
            raise RobotError(self._explained(error)) from error
        if picture is None:
            return Reading(dropped=dropped, damaged=damaged + 1)
        return Reading(Frame(fitted(picture, self._wanted), time_ns, newest.sequence), dropped, damaged)

    def close(self) -> None:
        """Stop and close the device."""
        if self._device is not None:
            self._device.close()
        self._device = None
        self._sequence = None

    def _start(self, device: VideoDevice, choice: Choice) -> float:
        offer = choice.offer
        got, height, width, self._row_bytes = device.set_format(offer.pixel_format, *offer.size)
        if (got, height, width) != (offer.pixel_format, *offer.size):
            raise RobotError(
                f"{self._path} was asked for {offer.pixel_format} {offer.width}x{offer.height}, which it offers, "
                f"and set {got} {width}x{height}; is another program changing it?"
            )
        self._pixel_format, self._size = got, (height, width)
        rate_hz = device.set_rate(choice.rate_hz)
        device.start(_BUFFERS)
        return choice.rate_hz if rate_hz is None else rate_hz

    def _converted(self, data: memoryview) -> Picture | None:
        if self._pixel_format == "MJPG":
            picture = rgb_from_jpeg(data)
            return picture if picture is not None and picture.shape[:2] == self._size else None
        return rgb_from_yuyv(data, *self._size, self._row_bytes)

    def _explained(self, error: OSError) -> str:
        return f"{self._path}: {explanation(error)}"


def offers_of(device: VideoDevice, path: str, wanted: Wanted | None = None) -> list[Offer]:
    """Return what a device offers. Where it offers ranges of sizes: the one next to what is wanted.

    Raises:
        RobotError: it is no camera.
        OSError: it is gone.
    """
    name, _, streams = device.identify()
    if not streams:
        raise RobotError(
            f"{path} ({name}) delivers no pictures: cameras have a second device for other data; "
            "molmoact2-edge cameras lists those that do"
        )
    height, width = (wanted.size if wanted is not None else None) or (480, 640)
    offers = []
    for pixel_format in device.formats():
        for sizes in device.sizes(pixel_format):
            size = sizes.at_least(height, width)
            offers.append(Offer(pixel_format, *size, tuple(device.rates_hz(pixel_format, *size))))
    return offers


def explanation(error: OSError) -> str:
    """Say what an error of a device means, and what to do."""
    if error.errno == errno.ENOENT:
        found = ", ".join(sorted(map(str, _BY_ID.glob("*")))) if _BY_ID.is_dir() else ""
        return (
            f"there is no such device; there are {found}"
            if found
            else "there is no such device; is it plugged in?"
        )
    advice = {
        errno.EACCES: "no permission; add yourself to the group video: sudo usermod -aG video $USER, then log in again",
        errno.EBUSY: "another program uses it; end that first (fuser -v names it)",
        errno.ENODEV: "the device is gone; check its cable",
        errno.ENOSPC: "its USB bus has no bandwidth left; use another port, or fewer or smaller pictures",
        errno.ENOTTY: "this is no V4L2 device",
        errno.EIO: "the device does not answer; plug it in again",
    }
    return advice.get(error.errno or 0, os.strerror(error.errno or 0))
