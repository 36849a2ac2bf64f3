"""`molmoact2-edge emulate`: each is found, says what it takes, and refuses what makes no sense before it starts."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from molmoact2_edge.cli import emulate, main
from molmoact2_emulators.so101_calibration import read_calibration, usual_calibration, write_calibration


def test_it_lists_the_emulators(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["emulate", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in ("so101", "dynamixel", "fr3", "panda", "yam", "robotiq", "camera"):
        assert f"\n  {name} " in said


def test_an_unknown_emulator(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["emulate", "hal9000"])
    assert ended.value.code == 2
    assert "hal9000" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(emulate.EMULATORS))
def test_each_has_a_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["emulate", name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"molmoact2-edge emulate {name}" in said
    assert "--faults" in said


def test_options_reach_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[argparse.Namespace] = []
    module = importlib.import_module("molmoact2_emulators.so101")

    def take(arguments: argparse.Namespace) -> int:
        taken.append(arguments)
        return 3

    monkeypatch.setattr(module, "run", take)
    assert main(["emulate", "so101", "--name", "left", "--camera", "front=a", "--camera-size", "64x48"]) == 3
    assert taken[0].name == "left"
    assert taken[0].camera == [("front", "a")]
    assert taken[0].camera_size == (64, 48)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--firmware", "7=3.10"], "SERVO=MAJOR.MINOR"),
        (["--firmware", "3=3"], "SERVO=MAJOR.MINOR"),
        (["--firmware", "3=3.256"], "at most 255"),
        (["--camera", "side=file"], "front=FILE or wrist=FILE"),
        (["--camera-size", "640"], "WIDTHxHEIGHT"),
        (["--unpacked", "--calibrated-as", "x"], "not allowed with"),
    ],
)
def test_wrong_options_of_the_so101(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["emulate", "so101", *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--judge", "socket"], "give --table, too"),
        (["--camera", "front=file"], "give --table, too"),
        (["--unpacked", "--calibration", "file"], "no calibration yet"),
        (["--calibrated-as", "/nowhere/file"], "/nowhere/file: not readable as a calibration"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulate", "so101", *options]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_it_runs_until_its_standard_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In this process, with a standard input that is at its end and no pipe: it goes on, until it is told to end."""
    from molmoact2_emulators import process, so101

    monkeypatch.setattr(sys, "stdin", io.StringIO("corrupt probability=2\nexplode\n"))
    monkeypatch.setattr(so101, "ask_for_punctuality", lambda: None)
    monkeypatch.setattr(process.signal, "signal", lambda number, handler: handlers.append(handler))
    monkeypatch.setattr(so101, "_serve", lambda *arguments: handlers[0]())
    handlers: list[object] = []
    calibration = tmp_path / "deep" / "arm.json"
    script = tmp_path / "faults"
    script.write_text("0 unplug duration=1\n")
    options = [
        "--unpaced",
        "--directory",
        str(tmp_path),
        "--calibration",
        str(calibration),
        "--faults",
        str(script),
    ]
    assert main(["emulate", "so101", *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'so101'}\n"
    assert read_calibration(calibration) == usual_calibration()
    assert not (tmp_path / "so101").exists()


def changed(**values: object) -> Mapping[str, object]:
    content = {name: vars(joint) | {} for name, joint in usual_calibration().items()}
    return {**content, "gripper": {**content["gripper"], **values}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not readable"),
        ("[]", "has the joints"),
        (json.dumps({"gripper": {}}), "has the joints"),
        (json.dumps(changed(id=3)), "has the id 3"),
        (json.dumps(changed(range_min=3000)), "range_min < range_max"),
        (json.dumps(changed(range_max=5000)), "range_min < range_max"),
        (json.dumps(changed(homing_offset=-2048)), "an offset of at most 2047"),
        (json.dumps(changed(homing_offset=0.5)), "whole numbers"),
        (json.dumps(changed(mood=1)), "whole numbers"),
    ],
)
def test_calibrations_that_no_arm_has(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "arm.json"
    file.write_text(content)
    assert main(["emulate", "so101", "--calibrated-as", str(file)]) == 1
    assert words in capsys.readouterr().err


def test_a_calibration_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", "so101", "--calibration", str(tmp_path)]) == 1
    assert "cannot be written" in capsys.readouterr().err
    write_calibration(tmp_path / "a" / "b.json", usual_calibration())
    assert read_calibration(tmp_path / "a" / "b.json") == usual_calibration()
