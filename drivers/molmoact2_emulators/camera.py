"""``molmoact2-edge emulate camera``: a V4L2 camera without hardware, for unmodified clients.

Clients are started with the variables of the second line, and find the camera at the path of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from molmoact2_edge.errors import InputError
from molmoact2_emulators.camera_feed import CAMERA_FAULTS, CameraFeed
from molmoact2_emulators.camera_frames import FrameWriter, Picture
from molmoact2_emulators.camera_http import MjpegServer
from molmoact2_emulators.camera_picture import NumberedPicture
from molmoact2_emulators.camera_shim import shim_environment
from molmoact2_emulators.faults import FaultPlan
from molmoact2_emulators.process import add_fault_options, running


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this emulator."""
    parser.add_argument(
        "--device",
        default="/dev/video10",
        metavar="PATH",
        help="where clients shall find it; nothing needs to be there (default: %(default)s)",
    )
    parser.add_argument("--size", type=_size, default=(640, 480), metavar="WxH", help="default: 640x480")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="default: %(default)s")
    parser.add_argument(
        "--source",
        metavar="FILE",
        help="a video or picture file to show (default: a test picture with its number drawn in it)",
    )
    parser.add_argument(
        "--frames", type=Path, metavar="FILE", help="the frame file (default: a temporary one)"
    )
    parser.add_argument("--mjpg", action="store_true", help="offer MJPG beside YUYV")
    parser.add_argument(
        "--mjpeg",
        nargs="?",
        type=int,
        const=0,
        metavar="PORT",
        help="serve it over HTTP on 127.0.0.1, too; the third line is its address (default: any free port)",
    )
    add_fault_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Be a camera until asked to end."""
    width, height = arguments.size
    plan = FaultPlan(CAMERA_FAULTS, seed=arguments.seed)
    with contextlib.ExitStack() as opened:
        frames = arguments.frames
        if frames is None:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="molmoact2-"))
            frames = Path(folder) / "frames"
        variables = shim_environment({arguments.device: frames})
        draw = _pictures(arguments)
        writer = FrameWriter(
            frames, width, height, arguments.rate, mjpg=arguments.mjpg or arguments.mjpeg is not None
        )
        opened.callback(writer.close)
        server = None
        if arguments.mjpeg is not None:
            server = opened.enter_context(MjpegServer(frames, arguments.mjpeg))
        with running(arguments.device, plan, arguments) as ended:
            print(" ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()), flush=True)
            if server is not None:
                print(server.url, flush=True)
            _film(draw, CameraFeed(writer, plan), arguments.rate, ended)
    return 0


def _film(draw: Callable[[int], Picture], feed: CameraFeed, rate_hz: float, ended: threading.Event) -> None:
    period_ns = round(1e9 / rate_hz)
    due_ns = time.monotonic_ns()
    for number in itertools.count():
        feed.publish(draw(number), time.monotonic_ns())
        # Periods that have passed are not made up for: this camera then is a slower one.
        late = (time.monotonic_ns() - due_ns) // period_ns
        due_ns += (late + 1) * period_ns
        if ended.wait(max(0.0, (due_ns - time.monotonic_ns()) * 1e-9)):
            return


def _pictures(arguments: argparse.Namespace) -> Callable[[int], Picture]:
    width, height = arguments.size
    if arguments.source is None:
        return NumberedPicture(width, height).draw
    from molmoact2_drivers.cameras.capture import Wanted
    from molmoact2_drivers.cameras.file_capture import FileCapture

    capture = FileCapture(arguments.source)
    capture.open(Wanted(height, width, arguments.rate, resize=True))
    last = capture.read(1.0).frame
    if last is None:
        raise InputError(f"{arguments.source} has no frame that can be read")
    newest = last

    def draw(_: int) -> Picture:
        nonlocal newest
        newest = capture.read(0.0).frame or newest
        return newest.image

    return draw


def _size(text: str) -> tuple[int, int]:
    width, times, height = text.partition("x")
    if not times or not width.isdecimal() or not height.isdecimal():
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, for instance 640x480, got {text!r}")
    return int(width), int(height)
