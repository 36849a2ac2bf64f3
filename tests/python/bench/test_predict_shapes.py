"""The benchmark of whole calls on random weights: it compares before it times, and writes what it says."""

from __future__ import annotations

import json
from pathlib import Path

import predict_shapes
import pytest


def test_every_case_is_compared_and_timed(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    shapes = reference / "tiny-think" / "config.json"
    options = ["--shapes", shapes, "--layers", "4", "--changed", "0", "2", "--repeat", "2", "--warm-up", "0"]
    cpu = ["--device", "cpu", "--dtype", "float32", "--num-steps", "2", "--out", out]
    assert predict_shapes.main([str(option) for option in (*options, *cpu)]) == 0
    document = json.loads(out.read_text())
    cases = {result["case"]: result for result in document["results"]}
    assert set(cases) == {
        "2 cameras, whole call",
        "2 cameras, state refresh",
        "3 cameras, whole call",
        "3 cameras, state refresh",
        *(f"think {mode}, {n} changed cells" for mode in ("adaptive", "exact") for n in (0, 2)),
    }
    for result in cases.values():
        assert set(result["total"]) == {"static", "eager"}
        for name, total in result["total"].items():
            assert 0 < total["median_ms"] <= total["p99_ms"]
            assert result["backends"][name]["call"].startswith(name)
    assert cases["think exact, 2 changed cells"]["depth_forwards"] == 3
    assert cases["think adaptive, 0 changed cells"]["depth_forwards"] == 1
    assert cases["2 cameras, state refresh"]["stages"]["static"]["vision"]["max_ms"] == 0
    assert "2 cameras, whole call" in capsys.readouterr().out


def test_what_differs_is_not_timed(reference: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(predict_shapes, "SAME", dict.fromkeys(predict_shapes.SAME, -1.0))
    shapes = reference / "tiny-think" / "config.json"
    with pytest.raises(SystemExit, match="nothing was timed"):
        predict_shapes.main(
            ["--shapes", str(shapes), "--device", "cpu", "--dtype", "float32", "--out", str(tmp_path / "no")]
        )
    assert not (tmp_path / "no").exists()
