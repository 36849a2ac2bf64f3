"""What a camera's source may be called on the command line and in a robot's configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from molmoact2_edge.errors import InputError

_GRAMMAR = (
    "a device (/dev/video0, or better /dev/v4l/by-id/...), a video or picture file (FILE?once plays it once), "
    "http://HOST/stream.mjpg, or realsense:SERIAL"
)
_REALSENSE = "realsense:"
_ONCE = "?once"
_BY_ID = Path("/dev/v4l/by-id")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?=/|[^/]*$)")


@dataclass(frozen=True)
class DeviceSource:
    """A V4L2 device."""

    path: str

    @property
    def identity(self) -> str:
        """The same for every name of the device."""
        return os.path.realpath(self.path)


@dataclass(frozen=True)
class FileSource:
    """A video or picture file, played at its own rate, again and again unless ``once``."""

    path: str
    once: bool = False

    @property
    def identity(self) -> None:
        """None: a file may be played twice."""
        return None


@dataclass(frozen=True)
class StreamSource:
    """JPEG pictures over HTTP."""

    url: str

    @property
    def identity(self) -> str:
        """The address."""
        return self.url


@dataclass(frozen=True)
class RealSenseSource:
    """An Intel RealSense camera's color sensor."""

    serial: str

    @property
    def identity(self) -> str:
        """The serial number."""
        return f"{_REALSENSE}{self.serial}"


Source: TypeAlias = DeviceSource | FileSource | StreamSource | RealSenseSource


def parse_source(text: str) -> Source:
    """Return what ``text`` names; nothing is opened.

    Raises:
        InputError: it names nothing, or a bare number.
    """
    if not text or text != text.strip() or "\0" in text:
        raise InputError(f"expected a camera's source, which is {_GRAMMAR}; got {text!r}")
    if text.isdecimal():
        raise InputError(
            f"a camera is not named by its index: {text} may be another one after the next boot; {_stable_names()}"
        )
    if text.startswith(_REALSENSE):
        serial = text.removeprefix(_REALSENSE)
        if not serial.isalnum() or not serial.isascii():
            raise InputError(f"expected realsense: and the camera's serial number, got {text!r}")
        return RealSenseSource(serial)
    if text.startswith(("http://", "https://")):
        return StreamSource(_checked_url(text))
    if text.startswith("/dev/"):
        return DeviceSource(text)
    if _SCHEME.match(text) and not Path(text).exists():
        raise InputError(f"expected a camera's source, which is {_GRAMMAR}; got {text!r}")
    if text.endswith(_ONCE) and len(text) > len(_ONCE):
        return FileSource(text.removesuffix(_ONCE), once=True)
    return FileSource(text)


def parse_camera_option(text: str) -> tuple[str, str]:
    """Return role and source of ``front=/dev/video0``.

    Raises:
        InputError: there is no role, or the source names nothing.
    """
    role, equals, source = text.partition("=")
    if not equals or not role.isidentifier():
        raise InputError(f"expected ROLE=SOURCE, for instance front=/dev/video0, got {text!r}")
    parse_source(source)
    return role, source


def camera_options(texts: Iterable[str]) -> dict[str, str]:
    """Return the sources by role of several such options.

    Raises:
        InputError: one is none, or a role comes twice.
    """
    sources: dict[str, str] = {}
    for text in texts:
        role, source = parse_camera_option(text)
        if role in sources:
            raise InputError(f"camera {role} is given twice: {sources[role]} and {source}")
        sources[role] = source
    return sources


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{text!r} is no address of a stream: {error}") from error
    if not parts.hostname or port == 0 or any(sign.isspace() for sign in text):
        raise InputError(f"{text!r} is no address of a stream; expected http://HOST:PORT/stream.mjpg")
    return text


def _stable_names() -> str:
    found = sorted(str(path) for path in _BY_ID.glob("*")) if _BY_ID.is_dir() else []
    if found:
        return f"use one of {', '.join(found)}"
    return "use its path below /dev/v4l/by-id; molmoact2-edge cameras lists them"
