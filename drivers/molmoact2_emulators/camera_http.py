"""A frame file as a stream of JPEG pictures over HTTP, as network cameras send it; only to this computer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from molmoact2_edge.errors import InputError
from molmoact2_emulators.accepting import AcceptPause
from molmoact2_emulators.camera_frames import FrameReader

PATH = "/stream.mjpg"

_BOUNDARY = "molmoact2-frame"
_LOOK_EVERY_S = 0.004
_JOIN_TIMEOUT_S = 2.0


class MjpegServer:
    """Serves the frames of one file, which its writer makes with ``mjpg=True``, until it is left."""

    def __init__(self, frames: Path, port: int = 0) -> None:
        """``port`` 0: any free one.

        Raises:
            InputError: the port is taken, or there is no frame file.
        """
        self._reader = FrameReader(frames)
        self._ending = threading.Event()
        handler = partial(_Handler, self._reader, self._ending)
        try:
            self._server = _Server(("127.0.0.1", port), handler)
        except OSError as error:
            raise InputError(f"port {port} of 127.0.0.1 cannot be served: {error}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="mjpeg", daemon=True)

    @property
    def url(self) -> str:
        """Where clients find the stream."""
        return f"http://127.0.0.1:{self._server.server_port}{PATH}"

    def __enter__(self) -> MjpegServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._thread.join(_JOIN_TIMEOUT_S)
        self._server.server_close()
        self._reader.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def server_activate(self) -> None:
        super().server_activate()
        self.pause = AcceptPause(f"the stream at port {self.server_port}")

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            self.pause.begin(error)
            self.pause.wait()  # this thread does nothing but take clients
            raise


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0  # of a client that takes nothing

    def __init__(self, reader: FrameReader, ending: threading.Event, *request: Any) -> None:
        self._reader, self._ending = reader, ending
        super().__init__(*request)  # answers it

    def do_GET(self) -> None:
        if self.path != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"the stream is at {PATH}")
            return
        # A client that goes away is no error.
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._send_stream(self._reader, self._ending)

    def _send_stream(self, reader: FrameReader, ending: threading.Event) -> None:
        """Send every new frame until the client, the device or the server is gone."""
        if not reader.plugged:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the camera is unplugged")
            return
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        sent = 0
        while reader.plugged and not ending.is_set():
            written = reader.written
            frame = None if written == sent else reader.newest()
            if frame is None or frame.jpeg is None:
                time.sleep(_LOOK_EVERY_S)
                continue
            sent = written
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame.jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + frame.jpeg + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: standard error is for faults."""
