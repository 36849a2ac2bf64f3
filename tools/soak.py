"""Minutes of motion on the emulated SO-101 with random faults: nothing may be lost unnoticed, nor anything grow.

    python tools/soak.py --minutes 30 --seed 0 --report soak.json

The real driver and the control loop move the arm slowly, while a fault from the list begins every few seconds. Faults
that end a run are mended as a person would: recover, start anew. At the end the loop's written commands are held
against those that the emulator has heard, accepted or damaged itself, and the memory, threads and open files against
what they were once it had warmed up. Exit code 0 when all of that holds, 3 when not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_drivers import LifeCycle
from molmoact2_edge.config import load_robot
from molmoact2_edge.control import ControlLoop, GateState
from molmoact2_edge.control.loop import LoopStatistics
from molmoact2_edge.errors import RobotError
from molmoact2_edge.hil.arm import ArmUnderTest
from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.hil.motion import Feeder, room, sway
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.runtime.hardware import make_robot, with_connection
from molmoact2_edge.runtime.hardware_fit import within_reach
from molmoact2_edge.runtime.report import write_report

_WARM_UP_S = 20.0
_LOOK_S = 0.2
_GROWTH_MAX_BYTES = 4 << 20
_IN_FLIGHT = 3  # commands that may be on the wire when its cable is pulled
_MEND_S = 20.0
# Line, and whether it may end the run.
_FAULTS = (
    ("drop probability=0.05 duration={s:.2f}", False),
    ("corrupt probability=0.05 duration={s:.2f}", False),
    ("delay probability=0.05 seconds=0.003 duration={s:.2f}", False),
    ("duplicate probability=0.05 duration={s:.2f}", False),
    ("unplug duration=0.4", False),
    ("unplug duration=2.5", True),
    ("absent servo={servo} duration=0.4", False),
    ("absent servo={servo} duration=2.5", True),
    ("overload servo={servo} duration=0.5", True),
    ("overtemperature servo={servo} celsius=58 duration=3", True),
    ("power_loss duration=0.4", True),
)
_COOL = "overtemperature servo={servo} celsius=30 duration=2"


@dataclass
class Tally:
    """What was counted."""

    ticks: int = 0
    written: int = 0
    records_lost: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    mended: int = 0
    newest: int = 0

    def drain(self, loop: ControlLoop) -> None:
        """Take in what the loop did since the last time."""
        telemetry = loop.record_columns(self.newest)
        self.newest = telemetry.newest
        self.records_lost += telemetry.lost
        columns = telemetry.columns
        written = int((columns["written_ns"] > 0).sum())
        self.ticks += len(columns["tick"])
        self.written += written
        self.states.update([[*GateState][code].value for code in columns["state"].tolist()])


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--report", type=Path, default=Path("soak.json"), metavar="FILE")
    arguments = parser.parse_args()
    if arguments.minutes * 60.0 < 1.5 * _WARM_UP_S:
        parser.error(f"--minutes: at least {1.5 * _WARM_UP_S / 60.0:g}, of which {_WARM_UP_S:g} s warm up")
    before, files_before = _resources(), Counter(_files())
    tally, statistics, driver, heard, used = _in_an_emulators_company(
        arguments.minutes * 60.0, arguments.seed
    )
    gc.collect()
    report = _judged(tally, statistics, heard, {"before": before, **used, "after": _resources()})
    report |= {
        "files_left": sorted((Counter(_files()) - files_before).elements()),
        "minutes": arguments.minutes,
        "seed": arguments.seed,
        "driver": driver,
        "machine": machine_facts(),
    }
    write_report(report, arguments.report)
    for name, holds in report["holds"].items():
        print(f"{'holds' if holds else 'does not hold':<14}{name}")
    return 0 if all(report["holds"].values()) else 3


def _in_an_emulators_company(
    seconds: float, seed: int
) -> tuple[Tally, LoopStatistics, dict[str, Any], dict[str, int], dict[str, dict[str, int]]]:
    """Start everything, soak, and let go of all of it; returns what was counted by us, loop, driver and emulator."""
    with tempfile.TemporaryDirectory(prefix="molmoact2-soak-") as temporary:
        calibration = Path(temporary) / "calibration.json"
        with EmulatorProcess("so101", ["--calibration", str(calibration), "--seed", str(seed)]) as emulator:
            config = with_connection(load_robot("so101"), port=emulator.address, calibration=calibration)
            robot = make_robot(config)
            robot.connect()
            try:
                robot.configure()
                arm = ArmUnderTest(robot, within_reach(config, robot.capabilities), [emulator])
                tally, statistics, warm, end = _soak(arm, seconds, seed)
                driver: dict[str, Any] = getattr(robot, "statistics", dict)()
            finally:
                robot.disconnect()
        heard = _counts(emulator.said)
    return tally, statistics, driver, heard, {"warm": warm, "end": end}


def _soak(
    arm: ArmUnderTest, seconds: float, seed: int
) -> tuple[Tally, LoopStatistics, dict[str, int], dict[str, int]]:
    rng = random.Random(seed)
    tally = Tally()
    loop = arm.loop()
    pose, limits = arm.pose(), loop.limits
    away = room(pose, limits.position_min, limits.position_max, np.full(len(pose), 8.0))
    motion = sway(pose, away, 0.25)
    begun = time.monotonic()
    warm: dict[str, int] | None = None
    next_fault = begun + 2.0
    cool: tuple[float, str] | None = None
    while (now := time.monotonic()) - begun < seconds:
        arm.activate()
        loop.start()
        tally.runs += 1
        with Feeder(loop, motion):
            while (now := time.monotonic()) - begun < seconds and not _over(arm, loop):
                if warm is None and now - begun > _WARM_UP_S:
                    gc.collect()
                    warm = _resources()
                if now >= next_fault:
                    servo = rng.randint(1, 6)
                    line = rng.choice(_FAULTS)[0].format(s=rng.uniform(0.5, 2.0), servo=servo)
                    arm.emulators[0].fault(line)
                    tally.faults[line.split()[0]] += 1
                    next_fault = now + rng.uniform(4.0, 8.0)
                    if line.startswith("overtemperature"):
                        cool = (now + 3.0, _COOL.format(servo=servo))
                if cool is not None and now >= cool[0]:
                    arm.emulators[0].fault(cool[1])
                    cool = None
                tally.drain(loop)
                time.sleep(_LOOK_S)
        loop.stop()
        tally.drain(loop)
        if time.monotonic() - begun < seconds:
            _mend(arm)
            tally.mended += 1
    gc.collect()
    end = _resources()
    _mend(arm)
    arm.hold()
    return tally, loop.statistics(), warm or end, end


def _over(arm: ArmUnderTest, loop: ControlLoop) -> bool:
    last = loop.last_record()
    return arm.robot.fault is not None or (last is not None and last["state"] == GateState.FAULT)


def _mend(arm: ArmUnderTest) -> None:
    give_up = time.monotonic() + _MEND_S
    while True:
        try:
            arm.hold()
            arm.activate()
            if arm.robot.life_cycle is LifeCycle.ACTIVE:
                return
        except RobotError:
            if time.monotonic() > give_up:
                raise
        time.sleep(0.2)


def _judged(
    tally: Tally,
    statistics: LoopStatistics,
    heard: dict[str, int],
    resources: dict[str, dict[str, int]],
) -> dict[str, Any]:
    unheard = tally.written - heard["goal_writes_heard"]
    pulled = tally.faults["unplug"]
    growth = resources["end"]["rss_bytes"] - resources["warm"]["rss_bytes"]
    holds = {
        "every tick was recorded": tally.records_lost == 0 and tally.ticks == statistics["ticks"],
        "every command that the loop has written was heard, but for those on the wire when it was pulled, and those "
        "that collided with a late answer": -2 <= unheard <= _IN_FLIGHT * pulled + heard["collisions"] + 2,
        "every command that was heard was accepted, or damaged by a fault": heard["goal_writes_heard"]
        == heard["goal_writes_accepted"] + heard["goal_writes_damaged"],
        f"memory grew by no more than {_GROWTH_MAX_BYTES >> 20} MiB": growth <= _GROWTH_MAX_BYTES,
        "no thread is left": resources["after"]["threads"] <= resources["before"]["threads"],
        "no file is left open": resources["after"]["files"] <= resources["before"]["files"],
    }
    return {
        "holds": holds,
        "commands": {
            "ticks": tally.ticks,
            "written": tally.written,
            "write_failures": statistics["write_failures"],
            "not_tried": tally.ticks - tally.written - statistics["write_failures"],
            "unheard": unheard,
            **heard,
        },
        "runs": tally.runs,
        "mended": tally.mended,
        "faults": dict(tally.faults),
        "states": dict(tally.states),
        "reasons": statistics["reason_events"],
        "memory_growth_bytes": growth,
        "resources": resources,
    }


def _resources() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "python_threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
    }


def _files() -> list[str]:
    """What the open descriptors lead to."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the directory's own
            found.append(str(link.readlink()))
    return found


def _counts(said: str) -> dict[str, int]:
    for line in reversed(said.splitlines()):
        if line.startswith("counts: "):
            counts: dict[str, int] = json.loads(line.removeprefix("counts: "))
            return counts
    raise RobotError("the emulator did not say what it has counted")


if __name__ == "__main__":
    sys.exit(main())
