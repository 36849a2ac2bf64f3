"""``molmoact2-edge profile`` as a whole, briefly; what it measures on this machine decides nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up import children

from molmoact2_edge.cli import main

HELD, FAILED, NOT_HELD = 0, 1, 3
WAIT_S = 60.0


def profile(directory: Path, *arguments: str) -> dict[str, object]:
    code = main(["profile", "--out", str(directory), *arguments])
    document: dict[str, object] = json.loads((directory / "profile.json").read_text())
    verdict = document["verdict"]
    assert isinstance(verdict, dict)
    assert code == (HELD if verdict["held"] else NOT_HELD)
    return document


def test_without_a_robot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = profile(tmp_path / "out", "--duration", "1", "--rate", "100", "--load", "gil")
    assert document["format"] == "molmoact2_edge_profile.v1"
    assert document["settings"] == {
        "rate_hz": 100.0, "duration_s": 1.0, "loads": ["gil"], "swing": 5.0, "robot": "no robot"
    }  # fmt: skip
    verdict = document["verdict"]
    assert isinstance(verdict, dict)
    assert verdict["held"] is None
    assert "Too short for a verdict" in capsys.readouterr().out
    assert "<svg" not in (tmp_path / "out" / "report.html").read_text().split("<script")[0]
    events = json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]
    assert {event["tid"] for event in events if event["name"] == "tick"} == {1, 2}


def test_with_the_simulated_robot_and_the_shipped_policy(tmp_path: Path) -> None:
    document = profile(
        tmp_path, "--robot", "sim-so101", "--checkpoint", str(Path(__file__).parents[3] / "models" / "so101-touch"),
        "--duration", "1",
    )  # fmt: skip
    predictions = document["predictions"]
    assert isinstance(predictions, dict)
    assert predictions["failure"] is None
    assert "flow" in predictions["stages"]
    settings = document["settings"]
    assert isinstance(settings, dict)
    assert settings["rate_hz"] == 50.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--load", "gpu"), "load 'gpu' is unknown"),
        (("--rate", "5"), "rate must be 10 to 1000 Hz"),
        (("--robot", "nobody"), "no robot 'nobody'"),
        (("--out", "/dev/null/x"), "--out"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "--out", str(tmp_path), "--duration", "1", *arguments]) == FAILED
    assert message in capsys.readouterr().err


def test_a_signal_ends_it_and_its_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from molmoact2_edge.cli import main; import sys; sys.exit(main())"]
    arguments = ["profile", "--load", "cpu,gil,io", "--duration", "100", "--out", str(tmp_path)]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline().startswith("measuring for 100 s")
            give_up = time.monotonic() + WAIT_S
            while len(begun := children(process.pid)) < len(os.sched_getaffinity(0)) + 1:
                assert time.monotonic() < give_up, "the loads did not begin"
                time.sleep(0.05)
            process.terminate()
            assert process.wait(WAIT_S) == 130
    finally:
        process.kill()
    assert not [child for child in begun if Path(f"/proc/{child}").exists()]
    assert list(tmp_path.iterdir()) == []
