"""``molmoact2-edge find-port`` as a person and as a script use it."""

from __future__ import annotations

import json
import os
import pty
import select
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from arms.at_terminal import at_terminal, run_command
from emulators.processes import emulator

from molmoact2_edge.arms.serial_ports import list_serial_ports


@contextmanager
def listening_line() -> Iterator[tuple[str, bytearray]]:
    """A serial device that answers nothing; what is sent to it is kept."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    heard = bytearray()
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            if select.select([master], [], [], 0.05)[0]:
                heard.extend(os.read(master, 4096))

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield os.ttyname(slave), heard
    finally:
        ended.set()
        listener.join()
        os.close(slave)
        os.close(master)


def test_the_port_is_found_by_unplugging_and_plugging() -> None:
    with (
        emulator("so101", "--name", "one") as arm,
        emulator("so101", "--name", "other") as other,
        at_terminal("find-port", arm.address, other.address) as person,
    ):
        person.sees("Unplug the arm's USB cable")
        other.fault("unplug")
        person.sees(f"{other.address} went away. Plug the cable in again.")
        other.fault("clear unplug")
        person.sees(f"The arm is on {other.address}")
        person.sees(f"use: --port {other.address}")
        assert person.exit_code() == 0


def test_two_ports_that_go_together_are_told_apart_by_the_person() -> None:
    with (
        emulator("so101", "--name", "one") as arm,
        emulator("so101", "--name", "other") as other,
        at_terminal("find-port", arm.address, other.address) as person,
    ):
        person.sees("Unplug")
        arm.fault("unplug")
        other.fault("unplug")
        person.sees("2 ports went away together")
        assert person.exit_code() == 3


def test_nothing_unplugged_is_told_after_the_timeout() -> None:
    with (
        emulator("so101") as arm,
        at_terminal("find-port", arm.address, "--timeout", "0.5") as person,
    ):
        person.sees("Not found: no port went away")
        assert person.exit_code() == 3


def test_q_gives_up() -> None:
    with emulator("so101") as arm, at_terminal("find-port", arm.address) as person:
        person.sees("q gives up")
        person.types("q")
        assert person.exit_code() == 130


def test_scan_finds_the_servos_without_unplugging() -> None:
    with listening_line() as (silent, _), emulator("so101") as arm:
        done = run_command("find-port", "--scan", silent, arm.address)
        assert done.returncode == 0, done.stderr
        assert f"{silent}: no servo answers" in done.stdout
        assert f"{arm.address}: feetech servos with ids 1, 2, 3, 4, 5, 6 at 1000000 baud" in done.stdout
        assert done.stdout.endswith(f"use: --port {arm.address}\n")
        answers = json.loads(run_command("find-port", "--scan", "--json", arm.address).stdout)
    assert answers[0]["servos"] == [1, 2, 3, 4, 5, 6]
    assert answers[0]["protocol"] == "feetech"


def test_scan_finds_dynamixel_servos() -> None:
    with emulator("dynamixel") as arm:
        done = run_command("find-port", "--scan", arm.address)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "dynamixel servos with ids 1, 2, 3, 4, 5, 6 at 1000000 baud" in done.stdout


def test_a_device_that_is_unknown_gets_nothing_but_pings() -> None:
    with listening_line() as (path, heard):
        done = run_command("find-port", "--scan", path)
    assert done.returncode == 3
    assert "No servos answered on any port" in done.stdout
    feetech, dynamixel = _packets(bytes(heard))
    assert {packet[4] for packet in feetech} == {1}, "an instruction that is no ping"
    assert {packet[7] for packet in dynamixel} == {1}
    assert {packet[2] for packet in feetech} == set(range(1, 17))
    assert {packet[4] for packet in dynamixel} == set(range(1, 17))


def _packets(heard: bytes) -> tuple[list[bytes], list[bytes]]:
    """Cut what was heard into packets of both protocols; nothing may be left over."""
    feetech, dynamixel = [], []
    while heard:
        if heard.startswith(b"\xff\xff\xfd\x00"):
            size = 7 + int.from_bytes(heard[5:7], "little")
            dynamixel.append(heard[:size])
        else:
            assert heard.startswith(b"\xff\xff"), heard
            size = 4 + heard[3]
            feetech.append(heard[:size])
        heard = heard[size:]
    return feetech, dynamixel


def test_list_says_what_is_there() -> None:
    with listening_line() as (path, _):
        done = run_command("find-port", "--list", path)
        assert done.returncode == 0
        assert path in done.stdout
        listed = json.loads(run_command("find-port", "--list", "--json", path).stdout)
        assert listed == [
            {
                "path": path,
                "device": os.path.realpath(path),
                "description": "",
                "hardware_id": "",
                "serial_number": "",
                "usable": True,
            }
        ]


@pytest.mark.skipif(bool(list_serial_ports()), reason="this computer has USB serial ports")
def test_without_any_port_it_says_what_to_do() -> None:
    done = run_command("find-port")
    assert done.returncode == 3
    assert "Plug the arm's USB cable in" in done.stdout


def test_what_is_no_serial_port_is_refused() -> None:
    done = run_command("find-port", "/dev/ttyNOTHING9", "/etc/hostname")
    assert done.returncode == 1
    assert "no serial port at /dev/ttyNOTHING9, /etc/hostname" in done.stderr
    with listening_line() as (path, _):
        refused = run_command("find-port", "--json", path)
    assert refused.returncode == 1
    assert "--json goes with --list and --scan" in refused.stderr


def test_a_pipe_that_ends_is_no_person() -> None:
    with emulator("so101") as arm:
        done = run_command("find-port", arm.address)
    assert done.returncode == 1
    assert "this command asks a person" in done.stderr
