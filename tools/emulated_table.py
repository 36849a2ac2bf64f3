"""The shipped policy on the emulated SO-101: through its driver, a paced serial line and V4L2 cameras, at 100 Hz.

    python tools/emulated_table.py --episodes 50 --report table.json

Starts ``molmoact2-edge emulate so101`` with the simulated table, its two cameras and its judge, damages packets, and
then runs ``molmoact2-edge run`` as a person would, in an environment in which the emulated cameras are /dev/video10 and
/dev/video11. Exit code 0 when at least four of five episodes succeeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.runtime.report import write_report
from molmoact2_emulators.camera_shim import shim_environment

_SIZE, _RATE_HZ = "112x112", "30"
_DEVICES = {"front": "/dev/video10", "wrist": "/dev/video11"}
_SHARE = 0.8


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--fault",
        action="append",
        metavar="LINE",
        help="of the arm, for the whole run (default: 'corrupt probability=0.01'); repeatable, '' for none",
    )
    parser.add_argument("--robot", default="emulated-so101", metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument("--report", type=Path, default=Path("emulated-table.json"), metavar="FILE")
    arguments = parser.parse_args()
    faults = [line for line in arguments.fault or ["corrupt probability=0.01"] if line]

    with tempfile.TemporaryDirectory(prefix="molmoact2-table-") as temporary:
        directory = Path(temporary)
        frames = {role: directory / f"{role}.frames" for role in _DEVICES}
        calibration, judge = directory / "calibration.json", directory / "judge"
        options = [
            "--table",
            "--judge",
            str(judge),
            "--calibration",
            str(calibration),
            "--seed",
            str(arguments.seed),
        ]
        options += ["--camera-size", _SIZE, "--camera-rate", _RATE_HZ]
        for role, path in frames.items():
            options += ["--camera", f"{role}={path}"]
        with EmulatorProcess("so101", options) as emulator:
            for line in faults:
                emulator.fault(line)
            command = [sys.executable, "-m", "molmoact2_edge", "run", "--robot", arguments.robot]
            command += ["--port", emulator.address, "--calibration", str(calibration), "--judge", str(judge)]
            for role, device in _DEVICES.items():
                command += ["--camera", f"{role}={device}"]
            command += ["--episodes", str(arguments.episodes), "--seed", str(arguments.seed)]
            command += ["--report", str(arguments.report), "--blackbox", str(directory / "blackbox")]
            cameras = {_DEVICES[role]: path for role, path in frames.items()}
            code = subprocess.run(
                command, env={**os.environ, **shim_environment(cameras)}, check=False
            ).returncode
            if code != 0:
                print(emulator.said, file=sys.stderr)
                return code
    report = json.loads(arguments.report.read_text(encoding="utf-8"))
    required = math.ceil(_SHARE * arguments.episodes)
    report["emulated"] = {
        "emulator": "so101",
        "camera_size": _SIZE,
        "camera_rate_hz": float(_RATE_HZ),
        "faults": faults,
        "successes_required": required,
    }
    write_report(report, arguments.report)
    return 0 if report["successes"] >= required else 3


if __name__ == "__main__":
    sys.exit(main())
