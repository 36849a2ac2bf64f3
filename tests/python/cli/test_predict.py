"""`molmoact2-edge predict`: what it prints, and what it answers to input that cannot be used."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from molmoact2_edge import Policy
from molmoact2_edge.cli import predict
from molmoact2_edge.errors import InputError

STATE = "-12.5,3,-4,5e0,.5,1"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "front.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["predict", *map(str, arguments)])
    code = args.run(args)
    assert isinstance(code, int)
    return code


def options(checkpoint: Path, image: Path, state: str = STATE) -> list[object]:
    return [
        "--checkpoint", checkpoint, "--image", image, "--task", "pick up the cube", "--state", state,
        "--norm-tag", "so101_tiny", "--device", "cpu", "--seed", 3, "--num-steps", 2,
    ]  # fmt: skip


def expected(checkpoint: Path, image: Path, **changes: Any) -> Any:
    policy = Policy.from_pretrained(checkpoint, device="cpu")
    frame = np.asarray(Image.open(image))
    state = np.array([-12.5, 3, -4, 5, 0.5, 1], np.float32)
    return policy.predict([frame], "pick up the cube", state, "so101_tiny", seed=3, num_steps=2, **changes)


def test_another_execution_gives_the_same_actions(
    reference: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*options(reference / "tiny-base", image), "--json", "--execution", "static") == 0
    printed = json.loads(capsys.readouterr().out)
    known = expected(reference / "tiny-base", image)
    np.testing.assert_allclose(printed["actions"], known.actions, rtol=1e-4, atol=1e-4)
    assert call(*options(reference / "tiny-base", image), "--execution", "graph") == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_json_equals_the_policy(reference: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*options(reference / "tiny-base", image), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    known = expected(reference / "tiny-base", image)
    np.testing.assert_allclose(printed["actions"], known.actions, rtol=1e-6)
    assert printed["valid"] is True
    assert printed["names"][-1] == "gripper"
    assert printed["token_ids"] is None
    assert printed["timing"].keys() == known.timing.keys()


def test_table(reference: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*options(reference / "tiny-base", image)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", *(f"joint_{i}" for i in range(5)), "gripper"]
    rows = np.array([[float(cell) for cell in line.split()] for line in lines[1:13]])
    assert rows[:, 0].tolist() == list(range(12))
    np.testing.assert_allclose(rows[:, 1:], expected(reference / "tiny-base", image).actions, atol=6e-4)
    assert lines[-1].startswith("milliseconds: ")


def test_think(reference: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*options(reference / "tiny-think", image), "--think", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    known = expected(reference / "tiny-think", image, think=True)
    assert printed["depth_codes"] == known.depth_codes.tolist()
    assert printed["token_ids"] == known.token_ids
    assert call(*options(reference / "tiny-think", image), "--think") == 0
    assert "depth codes" in capsys.readouterr().out


def test_discrete(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A public case from the shell: PNG keeps every pixel, and nine digits keep every float32."""
    with np.load(reference / "tiny-base/cases/one_camera.npz") as case:
        image = tmp_path / "front.png"
        Image.fromarray(case["image_0"]).save(image)
        state = ",".join(f"{number:.9g}" for number in case["state"])
        task, token_ids, actions = str(case["task"]), case["discrete_token_ids"], case["discrete_actions"]
    discrete = ["--action-mode", "discrete", "--action-tokenizer", reference / "openfast-tiny", "--json"]
    assert call(*options(reference / "tiny-base", image, state), "--task", task, *discrete) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["token_ids"] == token_ids.tolist()
    np.testing.assert_allclose(printed["actions"], actions, atol=1e-3)


def test_a_chunk_that_did_not_decode(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A black frame generates a malformed sequence here: no actions, and a status that scripts can see."""
    black = tmp_path / "black.png"
    Image.new("RGB", (30, 20)).save(black)
    discrete = ["--action-mode", "discrete", "--action-tokenizer", reference / "openfast-tiny"]
    assert call(*options(reference / "tiny-base", black, "0,0,0,0,0,0"), *discrete) == 1
    assert capsys.readouterr().out.startswith("no valid actions: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--image", "missing.png"], "missing.png"),
        (["--state", "1,2"], "6 numbers"),
        (["--state", "1,two"], "1,two"),
        (["--norm-tag", "other"], "so101_tiny"),
        (["--checkpoint", "./nowhere"], "no such directory"),
        (["--action-mode", "discrete"], "OpenFAST"),
        (["--think"], "Think"),
    ],
)
def test_unusable_input(
    changes: list[str], message: str, reference: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*options(reference / "tiny-base", image), *changes) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("molmoact2-edge predict: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


def test_images_of_other_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (5, 4)).save(path)
        assert predict.read_image(path).shape == (4, 5, 3)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png"):
        predict.read_image(tmp_path / "text.png")


@pytest.mark.parametrize("text", ["1,-2,.5", "1 -2 0.5", "[1, -2, 5e-1]", "1,-2,.5,"])
def test_state_notations(text: str) -> None:
    assert predict.parse_state(text).tolist() == [1, -2, 0.5]
