"""Runs cases in a process that sees an emulated camera: the library that shows it must be there from the start.

A file of cases is an ordinary test file under a name that pytest does not collect by itself; a test file beside it has
one test for each case, which fails with what the case said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from molmoact2_emulators.camera_shim import shim_environment

DEVICE = "/dev/video10"
FRAMES = "MOLMOACT2_TEST_FRAMES"
"""The variable in which cases find the path of the frame file behind DEVICE."""

_TIMEOUT_S = 300


def case_names(cases: Path) -> list[str]:
    """Return the names of the cases in a file."""
    return re.findall(r"^def (test_\w+)", cases.read_text(encoding="utf-8"), re.MULTILINE)


def run_cases(cases: Path, folder: Path, devices: tuple[str, ...] = (DEVICE,)) -> dict[str, str | None]:
    """Run all cases of a file in one process; returns what went wrong with each, None where nothing did.

    Every one of ``devices`` is backed by the same frame file, in ``folder``.
    """
    frames = folder / "frames"
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        str(cases),
    ]
    environment = {**os.environ, **shim_environment(dict.fromkeys(devices, frames)), FRAMES: str(frames)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert report.is_file(), f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    outcomes: dict[str, str | None] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        troubles = [
            f"{kind}: {child.get('message')}\n{child.text}"
            for kind in ("failure", "error", "skipped")
            for child in case.iter(kind)
        ]
        name = case.get("name", "").split("[")[0]
        outcomes[name] = "\n".join(filter(None, [outcomes.get(name), *troubles])) or None
    return outcomes
