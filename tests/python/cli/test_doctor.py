"""`molmoact2-edge doctor`: each finding from made-up facts, then the whole on this machine."""

from __future__ import annotations

import argparse
import json
import resource
import stat
from pathlib import Path

import pytest

from molmoact2_edge.cli import doctor


def test_python() -> None:
    assert doctor.python_finding((3, 12, 1)).status == "ok"
    assert doctor.python_finding((3, 9, 18)).status == "problem"


def test_extras_come_from_the_package() -> None:
    requirements = [
        "numpy>=1.26",
        'mujoco>=3.2; extra == "sim"',
        "av>=13.0 ; extra == 'sim'",
        'ruff; extra == "dev"',
    ]
    extras = doctor.extras_of(requirements)
    assert extras == {"sim": ["mujoco", "av"], "dev": ["ruff"]}
    assert doctor.extra_finding("sim", extras["sim"], lambda package: True).status == "ok"
    finding = doctor.extra_finding("sim", extras["sim"], lambda package: package != "av")
    assert (finding.status, finding.found) == ("note", "missing av")
    assert "[sim]" in finding.advice


@pytest.mark.parametrize(
    ("chosen", "libraries", "status", "word"),
    [
        (None, {"EGL"}, "ok", "egl"),
        ("osmesa", {"OSMesa", "GL"}, "ok", "osmesa"),
        ("egl", {"OSMesa"}, "note", "MUJOCO_GL"),
        (None, set(), "note", "libegl1"),
    ],
)
def test_graphics(chosen: str | None, libraries: set[str], status: str, word: str) -> None:
    finding = doctor.graphics_finding(chosen, lambda name: name if name in libraries else None)
    assert finding.status == status
    assert word in finding.found + finding.advice


def test_kernel_and_governor() -> None:
    assert doctor.kernel_finding(True, "6.12").status == "ok"
    assert doctor.kernel_finding(False, "6.12").status == "note"
    assert doctor.governor_finding("performance").status == "ok"
    assert doctor.governor_finding(None).status == "ok"
    assert "cpupower" in doctor.governor_finding("powersave").advice


def test_limits() -> None:
    assert doctor.priority_finding(0).status == "note"
    assert doctor.priority_finding(80).found == "up to 80"
    assert doctor.priority_finding(resource.RLIM_INFINITY).found == "up to unlimited"
    assert doctor.memlock_finding(8 << 20).found == "at most 8192 KiB"
    assert doctor.memlock_finding(resource.RLIM_INFINITY).status == "ok"


def test_serial_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.serial_finding(tmp_path, {"dialout"}).status == "ok"
    assert "usermod" in doctor.serial_finding(tmp_path, {"users"}).advice
    port = tmp_path / "ttyACM0"
    port.touch()
    assert doctor.serial_finding(tmp_path, {"users"}).found == "ttyACM0"
    # Root may open everything, so that permission is taken away here and not on the file.
    monkeypatch.setattr("os.access", lambda path, mode: stat.S_IMODE(0))
    finding = doctor.serial_finding(tmp_path, {"users"})
    assert (finding.status, finding.found) == ("note", "no permission for ttyACM0")


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.hub_finding(True).status == "note"
    assert doctor.hub_finding(False).status == "ok"


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["doctor", *arguments])
    code = args.run(args)
    assert isinstance(code, int)
    return code


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--json") == 0
    findings = json.loads(capsys.readouterr().out)
    topics = [finding["topic"] for finding in findings]
    for topic in (
        "Python",
        "compiled part",
        "PyTorch",
        "extra sim",
        "kernel",
        "locked memory",
        "serial ports",
    ):
        assert topic in topics
    assert all(finding["advice"] for finding in findings if finding["status"] == "problem")
    assert call() == 0
    assert capsys.readouterr().out.count("\n") >= len(findings)


def test_a_problem_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = doctor.Finding("compiled part", "problem", "cannot be imported", "install again")
    monkeypatch.setattr(doctor, "examine", lambda: [broken])
    assert call() == 1
    assert "PROBLEM  compiled part" in capsys.readouterr().out
