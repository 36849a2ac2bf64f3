"""Ports under names that last, what came and went, and what to do where a port may not be opened."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from molmoact2_edge.arms.serial_ports import (
    SerialPort,
    list_serial_ports,
    permission_advice,
    ports_that_came,
    ports_that_left,
)


@pytest.fixture
def line() -> Iterator[str]:
    master, slave = pty.openpty()
    yield os.ttyname(slave)
    os.close(slave)
    os.close(master)


def on_usb(device: str, **values: object) -> SimpleNamespace:
    known = {
        "vid": 0x1A86,
        "pid": 0x55D3,
        "manufacturer": None,
        "product": "USB Serial",
        "serial_number": "5970",
    }
    return SimpleNamespace(device=device, **{**known, **values})


def test_a_name_that_lasts_is_preferred(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usb-1a86_USB_Serial_5970-if00").symlink_to(line)
    on_board = on_usb("/dev/ttyS0", vid=None, pid=None)
    monkeypatch.setattr(list_ports, "comports", lambda: [on_usb(line), on_usb("/dev/ttyACM9"), on_board])
    listed = list_serial_ports(by_id=tmp_path)
    assert [port.path for port in listed] == [str(tmp_path / "usb-1a86_USB_Serial_5970-if00"), "/dev/ttyACM9"]
    assert listed[0].device == line
    assert listed[0].hardware_id == "1a86:55d3"
    assert listed[0].description == "USB Serial"
    assert listed[0].usable


def test_without_such_a_folder_the_kernel_s_name_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(list_ports, "comports", lambda: [on_usb("/dev/ttyACM9")])
    assert [port.path for port in list_serial_ports(by_id=tmp_path / "nothing")] == ["/dev/ttyACM9"]


def test_given_paths_are_taken_as_they_are(line: str, tmp_path: Path) -> None:
    link = tmp_path / "arm"
    link.symlink_to(line)
    (tmp_path / "file").write_text("")
    given = [str(link), str(tmp_path / "file"), str(tmp_path / "gone")]
    assert list_serial_ports(given) == [SerialPort(str(link), line)]


def test_what_left_and_what_came() -> None:
    one, other, third = (SerialPort(f"/dev/{name}", f"/dev/{name}") for name in ("a", "b", "c"))
    assert ports_that_left([one, other], [other, third]) == [one]
    assert ports_that_came([one, other], [other, third]) == [third]


def test_a_port_that_may_not_be_opened_comes_with_advice(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = SerialPort(line, line)
    assert permission_advice(port) == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    advice = permission_advice(port)
    assert "sudo usermod -aG " in advice
    assert "log out and in again" in advice
