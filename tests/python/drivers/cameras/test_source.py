"""What names a camera, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.cameras import camera_options, parse_camera_option, parse_source, source
from molmoact2_drivers.cameras.source import DeviceSource, FileSource, RealSenseSource, StreamSource
from molmoact2_edge.errors import InputError


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("/dev/video0", DeviceSource("/dev/video0")),
        ("/dev/v4l/by-id/usb-C270-video-index0", DeviceSource("/dev/v4l/by-id/usb-C270-video-index0")),
        ("http://127.0.0.1:8080/stream.mjpg", StreamSource("http://127.0.0.1:8080/stream.mjpg")),
        ("https://cam.local/?action=stream", StreamSource("https://cam.local/?action=stream")),
        ("realsense:123456789012", RealSenseSource("123456789012")),
        ("table.mp4", FileSource("table.mp4")),
        ("/data/table.mp4?once", FileSource("/data/table.mp4", once=True)),
        ("pictures/front.png", FileSource("pictures/front.png")),
    ],
)
def test_each_kind_of_source(text: str, named: object) -> None:
    assert parse_source(text) == named


BAD_ADDRESSES = ("http://", "http://:80/x", "http://cam:99999/x", "http://cam:x/", "http://a b/")


@pytest.mark.parametrize(
    "text",
    ["", " ", "a\0b", "/dev/video0 ", "realsense:", "realsense:12 34", "rtsp://cam/stream", *BAD_ADDRESSES],
)
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(InputError):
        parse_source(text)


def test_an_index_is_refused_with_the_names_that_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(source, "_BY_ID", tmp_path)
    with pytest.raises(
        InputError, match=r"0 may be another one after the next boot; .*molmoact2-edge cameras"
    ):
        parse_source("0")
    (tmp_path / "usb-C270-video-index0").touch()
    with pytest.raises(InputError, match=f"use one of {tmp_path}/usb-C270-video-index0"):
        parse_source("12")


@given(st.integers(0, 10**9))
def test_no_index_is_a_source(number: int) -> None:
    with pytest.raises(InputError, match="not named by its index"):
        parse_source(str(number))


@given(st.text(max_size=40))
def test_any_text_is_a_source_or_an_input_error(text: str) -> None:
    try:
        parsed = parse_source(text)
    except InputError:
        return
    # What is accepted says what was given.
    if isinstance(parsed, FileSource):
        assert text == parsed.path + ("?once" if parsed.once else "")
    elif isinstance(parsed, RealSenseSource):
        assert text == f"realsense:{parsed.serial}"
    else:
        assert text in (getattr(parsed, "path", None), getattr(parsed, "url", None))
    assert parse_source(text) == parsed


@given(
    st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True),
    st.from_regex(r"/dev/[a-z0-9=/-]{1,20}", fullmatch=True),
)
def test_an_option_is_taken_apart_where_it_was_put_together(role: str, text: str) -> None:
    assert parse_camera_option(f"{role}={text}") == (role, text)


@pytest.mark.parametrize(
    "text", ["front", "=/dev/video0", "front=", "front=0", "fro nt=/dev/video0", "1=/dev/video0"]
)
def test_what_is_no_option(text: str) -> None:
    with pytest.raises(InputError):
        parse_camera_option(text)


def test_a_role_comes_once() -> None:
    assert camera_options(["a=/dev/video0", "b=/dev/video1"]) == {"a": "/dev/video0", "b": "/dev/video1"}
    with pytest.raises(InputError, match="camera a is given twice: /dev/video0 and /dev/video1"):
        camera_options(["a=/dev/video0", "a=/dev/video1"])


def test_two_names_of_a_device_are_one_device(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "video0")
    names = [DeviceSource(str(tmp_path / name)).identity for name in ("video0", "by-id")]
    assert names[0] == names[1]
    assert FileSource("a.mp4").identity is None
