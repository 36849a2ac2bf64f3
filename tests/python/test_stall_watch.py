"""The watch over the computer itself, on which it depends whether a failed test may be repeated."""

from __future__ import annotations

import os
import signal
import time

from stall_watch import LATE_S, StallWatch


def test_a_stall_of_one_processor_is_told_and_only_to_tests_that_it_met() -> None:
    watch = StallWatch()
    try:
        for process in watch.processes:
            time.sleep(0.5)
            begin = time.monotonic()
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(10 * LATE_S)
            os.kill(process.pid, signal.SIGCONT)
            give_up = time.monotonic() + 10.0
            while not watch.stood_still_since(begin) and time.monotonic() < give_up:
                time.sleep(0.01)
            assert watch.stood_still_since(begin)
            assert not watch.stood_still_since(time.monotonic())
        processes = watch.processes
    finally:
        watch.close()
    assert processes
    assert all(process.poll() is not None for process in processes)
