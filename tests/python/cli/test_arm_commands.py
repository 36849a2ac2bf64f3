"""What the commands for arms have in common."""

from __future__ import annotations

import re

import pytest

from molmoact2_edge.cli import main

COMMANDS = ("find-port", "scan", "setup-motors", "calibrate", "jog", "teleop")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does_and_how_it_ends(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "exit code: 0" in said
    assert "2 for wrong arguments" in said
    # Every option has its line, and no placeholder was left unfilled.
    assert "%(" not in said
    assert "--help" in said


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_required_argument_that_is_missing_is_a_usage_error(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command])
    assert ended.value.code == 2
    assert "required: " in capsys.readouterr().err
