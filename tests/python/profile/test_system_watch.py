"""Counters and thread facts, from files as the kernel writes them."""

from __future__ import annotations

import threading
from pathlib import Path

from molmoact2_edge.profile.system_watch import Counters, counters, thread_facts, thread_ids, usage

STAT = "cpu  {user} 5 30 {idle} 2 0 1 {steal} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def write(root: Path, user: int, idle: int, steal: int, swapped: int) -> None:
    root.mkdir(exist_ok=True)
    (root / "stat").write_text(STAT.format(user=user, idle=idle, steal=steal))
    (root / "vmstat").write_text(f"nr_free_pages 12\npswpin {swapped}\npswpout 4\n")


def test_usage_is_the_difference_as_shares(tmp_path: Path) -> None:
    write(tmp_path / "proc", 100, 1000, 10, 7)
    before = counters(tmp_path / "proc", tmp_path / "sys")
    write(tmp_path / "proc", 160, 1030, 20, 9)
    found = usage(before, counters(tmp_path / "proc", tmp_path / "sys"))
    assert found.shares["user"] == 0.6
    assert found.shares["idle"] == 0.3
    assert found.steal == 0.1
    assert found.swapped_pages == 2
    assert found.throttlings is None


def test_throttlings_are_summed_over_the_cores(tmp_path: Path) -> None:
    write(tmp_path / "proc", 1, 1, 0, 0)
    for core, count in (("cpu0", 2), ("cpu1", 3)):
        place = tmp_path / "sys" / "devices" / "system" / "cpu" / core / "thermal_throttle"
        place.mkdir(parents=True)
        (place / "core_throttle_count").write_text(f"{count}\n")
    assert counters(tmp_path / "proc", tmp_path / "sys").throttlings == 5


def test_nothing_happened_in_no_time() -> None:
    same = Counters({"user": 1, "steal": 1}, 0, 0)
    assert usage(same, same).steal == 0.0


def test_a_thread_of_this_process(tmp_path: Path) -> None:
    ending, numbers = threading.Event(), list[int]()

    def wait() -> None:
        numbers.append(threading.get_native_id())
        ending.wait()

    before = thread_ids()
    thread = threading.Thread(target=wait, name="a (strange) name")
    thread.start()
    try:
        (number,) = thread_ids() - before
        facts = thread_facts(number)
        assert facts is not None
        assert (facts.policy, facts.priority) == ("SCHED_OTHER", 0)
        assert facts.cpus
    finally:
        ending.set()
        thread.join()
    assert numbers == [number]
    assert thread_facts(2**22 + 1) is None


def test_a_real_time_thread_as_the_kernel_shows_it(tmp_path: Path) -> None:
    task = tmp_path / "self" / "task" / "7"
    task.mkdir(parents=True)
    # Fields 18 (priority, -41 for FIFO 40) to 41 (policy) as in proc(5).
    fields = ["S", *["0"] * 14, "-41", "0", *["0"] * 20, "40", "1", "0"]
    (task / "stat").write_text("7 (loop) " + " ".join(fields) + "\n")
    (task / "status").write_text("Name:\tloop\nCpus_allowed_list:\t2-3\nnonvoluntary_ctxt_switches:\t9\n")
    facts = thread_facts(7, tmp_path)
    assert facts is not None
    assert (facts.policy, facts.priority, facts.cpus, facts.involuntary_switches) == (
        "SCHED_FIFO",
        40,
        "2-3",
        9,
    )
