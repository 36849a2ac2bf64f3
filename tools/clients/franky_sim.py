"""Drive franky-sim, an FCI server that is not ours, with the Franka driver, and say as JSON what came of it.

    python tools/clients/franky_sim.py --python build/franky-sim-env/bin/python

`--python` is the interpreter of an environment of its own with franky-sim 1.0.4 (`pip install franky-sim`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from molmoact2_drivers import StopPolicy
from molmoact2_drivers.franka import FrankaRobot, from_config
from molmoact2_edge.config import load_robot

_START_TIMEOUT_S = 60.0
_MOTION_TIMEOUT_S = 90.0  # its physics may run slower than the wall clock
_TOLERANCE = (1.0,) * 7 + (3.0,)  # degrees; percent
_WAY = (
    (8.0, -6.0, 4.0, 10.0, -5.0, 6.0, 12.0, 90.0),
    (-8.0, 6.0, -4.0, -5.0, 5.0, -6.0, -12.0, 30.0),
)


def main() -> int:
    """Run it; returns 0 when every step was reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", required=True, metavar="PATH", help="interpreter with franky-sim installed"
    )
    arguments = parser.parse_args()
    with _server(arguments.python) as address:
        report = _drive(address)
    print(json.dumps(report))
    return 0 if report["passed"] else 1


@contextmanager
def _server(python: str) -> Iterator[str]:
    """franky-sim on MuJoCo; yields its address."""
    process = subprocess.Popen(
        [python, "-u", "-m", "franky_sim.run_server", "--simulator", "mujoco"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    late = threading.Timer(_START_TIMEOUT_S, process.kill)
    late.start()
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            found = re.search(r"using '([0-9.]+)'", line)
            if found is not None:
                break
        else:
            raise SystemExit(f"franky-sim did not start:\n{''.join(said)}")
        late.cancel()
        # What it says from here on must not fill the pipe.
        threading.Thread(target=lambda: list(process.stdout or ()), daemon=True).start()
        yield found[1]
    finally:
        late.cancel()
        process.kill()
        process.wait()


def _drive(address: str) -> dict[str, Any]:
    config = load_robot("franka-droid")
    robot = from_config(replace(config, connection={**config.connection, "port": address}))
    report: dict[str, Any] = {"address": address, "steps": [], "passed": False}
    robot.connect()
    try:
        report["start"] = _rounded(robot.read_state().positions)
        robot.configure()
        robot.activate()
        start = robot.read_state().positions
        for way in _WAY:
            goal = start + np.array((*way[:7], way[7] - start[7]))
            begun = time.monotonic()
            robot.write_targets(goal)
            reached = _wait(lambda goal=goal: _at(robot, goal))  # type: ignore[misc]
            report["steps"].append(
                {
                    "goal": _rounded(goal),
                    "reached": reached,
                    "positions": _rounded(robot.read_state().positions),
                    "seconds": round(time.monotonic() - begun, 2),
                }
            )
        report["success_rate"] = robot.success_rate
        for policy in (StopPolicy.HOLD, StopPolicy.DAMP, StopPolicy.HOLD):
            robot.stop(policy)
        robot.activate()
        report["fault"] = robot.fault
        report["passed"] = robot.fault is None and all(step["reached"] for step in report["steps"])
    finally:
        robot.disconnect()
    return report


def _at(robot: FrankaRobot, goal: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    return bool((np.abs(robot.read_state().positions - goal) < _TOLERANCE).all())


def _wait(holds: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + _MOTION_TIMEOUT_S
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def _rounded(positions: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    return [round(float(value), 2) for value in positions]


if __name__ == "__main__":
    sys.exit(main())
