"""``molmoact2-edge run`` from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from molmoact2_edge.cli import main
from molmoact2_edge.config import load_robot


def test_show_config_prints_the_whole_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", "--show-config", "--robot", "so101"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "so101.yaml"
    path.write_text(printed)
    assert load_robot(path) == load_robot("so101")
    assert "extends" not in yaml.safe_load(printed)


def test_an_unknown_robot_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--robot", "so102"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("molmoact2-edge run: no robot 'so102'; there are")
    assert captured.err.count("\n") == 1


def test_a_missing_checkpoint_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--checkpoint", str(tmp_path / "nothing"), "--offline"]) == 1
    assert capsys.readouterr().err.startswith("molmoact2-edge run: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--episodes", "many"]])
def test_wrong_arguments_end_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_the_simulator() -> None:
    code = (
        "import sys\nfrom molmoact2_edge.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'mujoco', 'av', 'pyarrow', 'rerun'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
