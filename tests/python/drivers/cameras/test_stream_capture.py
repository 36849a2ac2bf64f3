"""JPEG pictures over HTTP: from the emulated camera's server, and from servers that behave badly."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from emulators.filming import Filming, filming
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from molmoact2_drivers import LifeCycle
from molmoact2_drivers.cameras import ThreadedCamera
from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.multipart import PartReader
from molmoact2_drivers.cameras.stream_capture import StreamCapture
from molmoact2_edge.errors import RobotError
from molmoact2_emulators.camera_http import MjpegServer
from molmoact2_emulators.camera_picture import read_number

pytest.importorskip("cv2")

PATIENCE_S = 30.0
WANTED = Wanted(120, 160, 30.0)


@pytest.fixture
def film(tmp_path: Path) -> Iterator[Filming]:
    with filming(tmp_path / "frames", rate_hz=30.0, mjpg=True) as film:
        yield film


@pytest.fixture
def camera(film: Filming) -> Iterator[ThreadedCamera]:
    with MjpegServer(film.writer.path) as server:
        camera = ThreadedCamera("front", StreamCapture(server.url), WANTED, lost_fault_s=0.5)
        camera.connect()
        yield camera
        camera.disconnect()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not"
        time.sleep(0.005)


def test_frames_come_in_their_order(camera: ThreadedCamera) -> None:
    assert camera.description == "MJPEG stream 160x120"
    sequence, numbers = -1, []
    for _ in range(10):
        frame = camera.wait_newer(sequence, PATIENCE_S)
        sequence = frame.sequence
        numbers.append(read_number(frame.image))
        assert frame.age_ns(time.monotonic_ns()) >= 0
    assert None not in numbers
    assert (
        numbers == sorted(set(numbers), key=numbers.index) == sorted(numbers, key=lambda number: number or 0)
    )


def test_damaged_pictures_are_thrown_away_and_counted(film: Filming, camera: ThreadedCamera) -> None:
    film.fault("corrupt probability=0.5")
    wait_for(lambda: camera.statistics.damaged >= 3)
    frame = camera.wait_newer(camera.latest().sequence, PATIENCE_S)
    assert read_number(frame.image) is not None


def test_a_stream_that_breaks_off_is_opened_again(film: Filming, camera: ThreadedCamera) -> None:
    film.fault("unplug")
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault is not None
    assert "gives no stream" in camera.fault or "has ended" in camera.fault
    film.fault("clear unplug")
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    assert camera.statistics.reconnects >= 1


def test_a_stalled_stream_ages(film: Filming, camera: ThreadedCamera) -> None:
    film.fault("stall")
    wait_for(lambda: camera.latest().age_ns(time.monotonic_ns()) > 200_000_000)
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)


def test_another_size_is_refused(film: Filming) -> None:
    with (
        MjpegServer(film.writer.path) as server,
        pytest.raises(RobotError, match="gives 160x120, wanted is 80x60"),
    ):
        StreamCapture(server.url).open(Wanted(60, 80, 30.0))


def test_other_addresses_of_the_server_are_no_stream(film: Filming) -> None:
    with MjpegServer(film.writer.path) as server:
        with pytest.raises(RobotError, match="gives no stream: HTTP Error 404"):
            StreamCapture(server.url.replace("stream", "other")).open(WANTED)
        address = server.url
    with pytest.raises(RobotError, match="does not answer"):
        StreamCapture(address).open(WANTED)


@contextmanager
def server_that_says(chunks: Iterable[bytes]) -> Iterator[str]:
    """A server that answers one client with these bytes, until they end or the client is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(ConnectionError):
            client.recv(4096)
            for chunk in chunks:
                client.sendall(chunk)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/stream"
    finally:
        thread.join(PATIENCE_S)
        listener.close()


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((120, 160, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=--odd\r\n\r\n"


def test_a_server_that_tells_no_lengths_and_counts_the_dashes_to_the_name() -> None:
    part = b"--odd\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(90) + b"\r\n"
    with server_that_says(itertools.chain([HEAD], itertools.repeat(part))) as url:
        capture = StreamCapture(url)
        capture.open(WANTED)
        for _ in range(5):
            frame = capture.read(PATIENCE_S).frame
            assert frame is not None
            assert np.abs(frame.image.astype(int) - 90).max() <= 2  # of JPEG
        capture.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n",), "expected multipart/x-mixed-replace"),
        ((HEAD,), "the stream has ended"),
        ((HEAD, b"--odd\r\n\r\nno picture\r\n" * 20), "nothing but damaged pictures"),
        ((b"HTTP/1.0 503 Busy\r\n\r\n",), "gives no stream: HTTP Error 503"),
        ((b"nonsense\r\n\r\n",), "does not answer"),
    ],
)
def test_servers_that_send_no_pictures(answer: tuple[bytes, ...], message: str) -> None:
    with server_that_says(answer) as url, pytest.raises(RobotError, match=message):
        StreamCapture(url).open(WANTED)


def stream_of(parts: list[bytes], lengths: bool, line: bytes = b"\r\n") -> bytes:
    data = b"a preamble" + line
    for part in parts:
        length = b"Content-Length: %d%s" % (len(part), line) if lengths else b""
        data += b"--name" + line + b"Content-Type: image/jpeg" + line + length + line + part + line
    return data + b"--name"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=80).filter(lambda part: b"--name" not in part and not part.endswith(b"\r"))),
    st.booleans(),
    st.sampled_from((b"\r\n", b"\n")),
    st.lists(st.integers(0, 400)),
)
def test_parts_come_out_however_the_bytes_come_in(
    parts: list[bytes], lengths: bool, line: bytes, cuts: list[int]
) -> None:
    data = stream_of(parts, lengths, line)
    reader = PartReader("name")
    found = []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        found += reader.feed(data[begin:end])
    assert found == parts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_parts_or_none(chunks: list[bytes]) -> None:
    reader = PartReader("x")
    given = b"".join(chunks)
    for chunk in chunks:
        for part in reader.feed(chunk):
            assert part in given


def test_what_does_not_end_is_an_error() -> None:
    reader = PartReader("name")
    with pytest.raises(RobotError, match="header of a part of the stream does not end"):
        reader.feed(b"--name\r\n" + b"x" * 70_000)
    reader = PartReader("name")
    reader.feed(b"--name\r\n\r\n")
    with pytest.raises(RobotError, match="longer than"):
        reader.feed(bytes(40 << 20))
