"""One camera's video: an episode is encoded while it happens, then appended to the dataset's file without decoding."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.extras import pyav
from molmoact2_edge.types import Image

# Recording shares the computer with the policy: H.264 with these options takes a fraction of the processor time that
# AV1, LeRobot's own choice, takes, for larger files (tools/bench/record_codecs.py). LeRobot reads both. A key frame
# every second frame makes reading at random cheap; without B-frames an episode can be appended to another by shifting
# its time stamps.
CODEC = "libx264"
OPTIONS = {"preset": "ultrafast", "crf": "18", "g": "2", "bf": "0"}
_PIXEL_FORMAT = "yuv420p"


class EpisodeVideo:
    """Encodes the frames of one episode into a file; frame k has the time k / fps."""

    def __init__(self, path: Path, fps: int, size: tuple[int, int]) -> None:
        """``size`` is (height, width).

        Raises:
            InputError: the file cannot be written.
        """
        self.path = path
        self.frames = 0
        self._fps = fps
        self._size = size
        self._av = pyav()
        try:
            self._container: Any = self._av.open(str(path), mode="w", format="mp4")
        except OSError as error:
            raise InputError(f"cannot write the video {path}: {error}") from error
        self._stream: Any = self._container.add_stream(CODEC, rate=fps, options=OPTIONS)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = _PIXEL_FORMAT
        self._stream.time_base = Fraction(1, fps)
        self._stream.codec_context.thread_count = 1  # the other cores belong to the loop and the policy

    def add(self, image: Image) -> None:
        """Encode an (H, W, 3) RGB image; raises InputError where it has another size than the first."""
        if image.shape != (*self._size, 3):
            raise InputError(f"expected images of shape {(*self._size, 3)}, got {image.shape}")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self.frames, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def finish(self) -> None:
        """Write what is left and close the file."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def close(self) -> None:
        """Close the file as it is; does not raise."""
        with contextlib.suppress(OSError, ValueError):  # an encoder without a frame has nothing to close
            self._container.close()


@dataclass(frozen=True)
class VideoFacts:
    """What ``info.json`` says about a camera's videos."""

    height: int
    width: int
    codec: str
    pixel_format: str
    fps: int

    def as_info(self) -> dict[str, Any]:
        """Return it under LeRobot's names."""
        return {
            "video.height": self.height,
            "video.width": self.width,
            "video.codec": self.codec,
            "video.pix_fmt": self.pixel_format,
            "video.is_depth_map": False,
            "video.fps": self.fps,
            "video.channels": 3,
            "has_audio": False,
        }


def video_facts(path: Path) -> VideoFacts:
    """Return what the first video stream of a file is."""
    av = pyav()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.base_rate or stream.average_rate
        return VideoFacts(
            stream.height,
            stream.width,
            stream.codec.canonical_name,
            str(stream.pix_fmt),
            round(float(rate)),
        )


def can_append(existing: Path, episode: Path) -> bool:
    """Return whether both files hold the same kind of stream, so that packets of one may follow the other's."""
    av = pyav()
    with av.open(str(existing)) as first, av.open(str(episode)) as second:
        a, b = first.streams.video[0], second.streams.video[0]
        return bool(
            a.codec.name == b.codec.name
            and (a.height, a.width, a.time_base) == (b.height, b.width, b.time_base)
            and a.codec_context.extradata == b.codec_context.extradata
        )


def append(existing: Path, frames: int, episode: Path, fps: int, destination: Path) -> None:
    """Write ``existing``, which holds ``frames`` frames, with ``episode`` behind it to ``destination``.

    Both must satisfy :func:`can_append`. ``destination`` must be another file.
    """
    av = pyav()
    assert not destination.exists() or not os.path.samefile(destination, existing)
    with av.open(str(destination), mode="w", format="mp4") as output:
        with av.open(str(existing)) as first:
            source = first.streams.video[0]
            stream = output.add_stream_from_template(
                source, opaque=True
            )  # copies the codec's parameters as they are
            time_base = source.time_base
            stream.time_base = time_base
            _copy(first, source, output, stream, 0)
        shift = Fraction(frames, fps) / time_base
        assert shift.denominator == 1, "a frame's duration is a whole number of the file's time units"
        with av.open(str(episode)) as second:
            _copy(second, second.streams.video[0], output, stream, int(shift))


def _copy(container: Any, source: Any, output: Any, stream: Any, shift: int) -> None:
    for packet in container.demux(source):
        if packet.dts is None:  # the demuxer's end mark
            continue
        packet.pts += shift
        packet.dts += shift
        packet.stream = stream
        output.mux(packet)
