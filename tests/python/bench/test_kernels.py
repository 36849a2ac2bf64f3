"""The benchmark of kernels: it compares before it times, and writes what it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import kernels as benchmark
import pytest
import torch
from kernel_cases.comparison import CPU, Comparison


def comparison(difference: float) -> Comparison:
    return Comparison(
        "sum",
        {"size": 3},
        "a loop",
        ours=lambda: torch.ones(3) + difference,
        baseline=lambda: torch.ones(3),
        tolerance=1e-3,
        bytes_moved=2_000_000,
        flops=3,
    )


def test_both_sides_are_timed_against_each_other_and_the_floor() -> None:
    result = benchmark.measure(comparison(1e-4), benchmark.HostClock(), 1e9, pairs=4, seconds=1.0)
    assert result["pairs"] == 4
    assert result["largest_difference"] == pytest.approx(1e-4, rel=1e-2)
    assert result["floor_ms"] == pytest.approx(2.0)
    for side in ("ours", "baseline"):
        assert 0 < result[side]["min_ms"] <= result[side]["median_ms"] <= result[side]["max_ms"]
    assert result["ratio_of_minima"] == pytest.approx(result["baseline"]["min_ms"] / result["ours"]["min_ms"])


@pytest.mark.parametrize("difference", [1e-2, float("nan")])
def test_what_differs_is_not_timed(difference: float) -> None:
    with pytest.raises(SystemExit, match="nothing was timed"):
        benchmark.measure(comparison(difference), benchmark.HostClock(), 1e9, pairs=4, seconds=1.0)


def test_results_of_other_shapes_differ() -> None:
    other = dataclasses.replace(comparison(0.0), ours=lambda: torch.ones(1))
    with pytest.raises(SystemExit, match="shapes"):
        benchmark.measure(other, benchmark.HostClock(), 1e9, pairs=4, seconds=1.0)


@pytest.mark.parametrize(
    "name", ["flow-tiny", "context-tiny", "decoder-silu_gated-1", "depth_diff-240x320", "openfast-decode-openfast-tiny"]
)  # fmt: skip
def test_every_kernel_agrees_with_its_baseline(name: str) -> None:
    found = next(iter(benchmark.comparisons(CPU, name)))
    result = benchmark.measure(found, benchmark.HostClock(), 1e9, pairs=3, seconds=1.0)
    assert result["name"] == name


def test_the_file_says_what_was_measured_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "COPY_BYTES", 1 << 20)
    out = tmp_path / "folder" / "kernels.json"
    options = ["--only", "openfast-decode-openfast-tiny", "--pairs", "3", "--out", str(out)]
    assert benchmark.main(options) == 0
    document = json.loads(out.read_text())
    assert [result["name"] for result in document["results"]] == ["openfast-decode-openfast-tiny"]
    assert document["machine"]["cores"] >= 1
    assert document["copy_gigabytes_per_s"] > 0
    assert "ratio" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "no such kernel", "--out", str(out)])
