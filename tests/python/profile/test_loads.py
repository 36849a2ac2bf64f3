"""Loads begin, and end whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_up import children

from molmoact2_edge.errors import InputError
from molmoact2_edge.profile import loaded, parse_loads

WAIT_S = 20.0


def test_loads_are_named() -> None:
    assert parse_loads("io, cpu") == ("cpu", "io")
    assert parse_loads("gil,gil") == ("gil",)
    assert parse_loads("none") == parse_loads("") == ()
    with pytest.raises(InputError, match="'gpu' is unknown; known are cpu, gil, io"):
        parse_loads("cpu,gpu")


def test_each_core_gets_a_process_and_all_end_with_the_block(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    with loaded(("cpu", "io"), str(tmp_path)):
        begun = set(children(os.getpid())) - before
        assert len(begun) == len(os.sched_getaffinity(0)) + 1
    assert set(children(os.getpid())) <= before
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_ends_them_too() -> None:
    before = set(children(os.getpid()))
    threads = threading.active_count()

    def fail() -> None:
        with loaded(("cpu", "gil")):
            assert threading.active_count() == threads + 1
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert set(children(os.getpid())) <= before
    assert threading.active_count() == threads


def test_a_killed_process_leaves_nothing_behind() -> None:
    program = (
        "import time\nfrom molmoact2_edge.profile.loads import loaded\n"
        "with loaded(('cpu', 'io')):\n    print('begun', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "begun\n"
        begun = children(process.pid)
        assert len(begun) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    give_up = time.monotonic() + WAIT_S
    while any(Path(f"/proc/{child}").exists() for child in begun):
        assert time.monotonic() < give_up, "a load outlived the process that asked for it"
        time.sleep(0.05)
