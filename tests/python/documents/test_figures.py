"""The figures in the documents are those of the recorded files that they name; nothing is measured here."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "docs" / "benchmarks"
README, PERFORMANCE = "README.md", "docs/performance.md"
FILES, CARD = "docs/benchmarks/README.md", "models/so101-touch/README.md"

SAID = (
    (README, "seams {seams.ratio:.0f} times smaller in acceleration"),
    (README, "{real.successes} of 50 episodes (`docs/benchmarks/run-so101-touch-50.json`)"),
    (CARD, "no other block before it | {real.successes} of 50 |"),
    (CARD, "time to touch, mean / longest | {real.mean_s:.1f} / {real.longest_s:.1f} s |"),
    (CARD, "float32: p50 / p99 | {real.p50_ms:.0f} / {real.p99_ms:.0f} ms |"),
    (CARD, "(`docs/benchmarks/run-simulated-time-50.json`) | {simulated.successes} of 50 |"),
    (
        PERFORMANCE,
        "{peer.base:.1f} times as fast on tiny-base, {peer.first:.1f} times on tiny-think's first frame",
    ),
    (PERFORMANCE, "{peer.later:.1f} on a frame with {peer.cells} changed cells"),
    (
        PERFORMANCE,
        "{flow.release:.1f} times as fast as plain torch at release shapes, {flow.tiny:.0f} times at",
    ),
    (PERFORMANCE, "{context.release:.1f} times as fast as plain torch at release shapes"),
    (PERFORMANCE, "{context.tiny:.1f} to {context.think:.1f} times at a tiny checkpoint's"),
    (PERFORMANCE, "{depth.vga:.0f} times as fast as numpy and Pillow at 640x480 and above"),
    (PERFORMANCE, "{depth.hd:.0f} times as fast as numpy and Pillow at 640x480 and above"),
    (PERFORMANCE, "and above, {depth.small:.0f} times at 320x240"),
    (PERFORMANCE, "{openfast.short:.0f} times as fast as tokenizers and scipy for short sequences"),
    (PERFORMANCE, "{openfast.large:.0f} times for a vocabulary of 2048"),
    (
        PERFORMANCE,
        "`kernels-cpu.json`, {frames.least:.1f} to {frames.most:.1f} times as fast as plain torch.",
    ),
    (PERFORMANCE, "for a prompt, gated SiLU {torch.silu:.1f} times, RMSNorm {torch.rms:.1f}"),
    (FILES, "{peer.base:.1f} times as fast on tiny-base, {peer.first:.1f} on tiny-think's first frame"),
    (FILES, "{peer.later:.1f} on a frame with {peer.cells} changed cells"),
    (FILES, "the flow loop at release shapes is {flow.release:.1f} times as fast as plain torch"),
    (FILES, "depth cells {depth.vga:.0f} to {depth.small:.0f} times as numpy and Pillow"),
    (FILES, "OpenFAST {openfast.short:.0f} to {openfast.large:.0f} times"),
    (FILES, "{seams.without:.0f} deg/s^2 in mode `async`, {seams.within:.0f} in mode `rtc`"),
    (FILES, "anywhere, {seams.without_anywhere:.0f} and {seams.within_anywhere:.0f} |"),
    (
        FILES,
        "p99 period error {loops.cpp_us:.0f} µs beside {loops.python_ms:.0f} ms, {loops.ratio:.0f} times",
    ),
    (README, "V4L2, {emulated.successes} of 50 (`docs/benchmarks/run-emulated-arm-50.json`)"),
    (FILES, "one packet in a hundred garbled: {emulated.successes} of 50 episodes at {emulated.hz:.1f} Hz"),
    (FILES, "{bus.ours:.2f} times the wire's time, rustypot {bus.rustypot:.2f} in the same run"),
    (FILES, "with the block of all readings {bus.block:.2f}"),
    (FILES, "half an hour on the emulated SO-101, {soak.faults} random faults"),
)
"""Documents and what they say; in braces what the functions below read from the files."""


def recorded(name: str) -> Any:
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


def kernels() -> dict[str, dict[str, float]]:
    ratio = {one["name"]: one["ratio_median_of_pairs"] for one in recorded("kernels-cpu.json")["results"]}
    frames = [value for name, value in ratio.items() if name.startswith("vision_input-")]
    return {
        "flow": {"release": ratio["flow-release"], "tiny": ratio["flow-tiny"]},
        "context": {
            "release": ratio["context-release"],
            "tiny": ratio["context-tiny"],
            "think": ratio["context-tiny-think"],
        },
        "depth": {
            "vga": ratio["depth_diff-480x640"],
            "hd": ratio["depth_diff-720x1280"],
            "small": ratio["depth_diff-240x320"],
        },
        "openfast": {
            "short": ratio["openfast-decode-openfast-tiny"],
            "large": ratio["openfast-decode-openfast-2048"],
        },
        "frames": {"least": min(frames), "most": max(frames)},
        "torch": {"silu": 1.0 / ratio["decoder-silu_gated-490"], "rms": 1.0 / ratio["decoder-rms_norm-490"]},
    }


def peer() -> dict[str, float]:
    results = {
        (one["model"], one["case"]): one
        for one in recorded("peer-lerobot-cpu.json")["results"]
        if one["level"] == "frames to actions"
    }
    base, first, later = (
        results[key]
        for key in (("tiny-base", "two_cameras"), ("tiny-think", "frame_0"), ("tiny-think", "frame_2"))
    )
    return {
        "base": base["ratio"]["peer_eager"],
        "first": first["ratio"]["peer_eager"],
        "later": later["ratio"]["peer_eager"],
        "cells": later["agreement"]["decoded_cells"],
    }


def episodes(name: str) -> dict[str, float]:
    run = recorded(name)
    seconds = [float(one["reason"].split(" after ")[1].removesuffix(" s")) for one in run["outcomes"]]
    assert (run["episodes"], run["settings"]["seed"], len(seconds)) == (50, 1000, 50)
    calls = run["latency"]["total"]
    return {
        "successes": run["successes"],
        "mean_s": float(np.mean(seconds)),
        "longest_s": max(seconds),
        "p50_ms": calls["p50_ms"],
        "p99_ms": calls["p99_ms"],
        "hz": run["loop"]["mean_rate_hz"],
    }


def seams() -> dict[str, float]:
    told = recorded("seams-rtc.json")
    return {
        "ratio": told["acceleration_ratio"],
        "without": told["async"]["acceleration"]["mean"],
        "within": told["rtc"]["acceleration"]["mean"],
        "without_anywhere": told["async"]["acceleration_anywhere"]["mean"],
        "within_anywhere": told["rtc"]["acceleration_anywhere"]["mean"],
    }


def loops() -> dict[str, float]:
    told = recorded("profile-200hz.json")
    p99_ms = {name: loop["period_error"]["p99_ms"] for name, loop in told["loops"].items()}
    ratio = told["python_over_cpp"]["period_error_p99"]
    return {"cpp_us": 1e3 * p99_ms["cpp"], "python_ms": p99_ms["python"], "ratio": ratio}


def bus() -> dict[str, float]:
    told = recorded("bus-feetech.json")["exchanges"]
    return {
        "ours": told["positions"]["molmoact2_edge"]["median_of_wire"],
        "rustypot": told["positions"]["rustypot"]["median_of_wire"],
        "block": told["block"]["molmoact2_edge"]["median_of_wire"],
    }


def soak() -> dict[str, float]:
    told = recorded("soak-so101.json")
    assert told["minutes"] == 30.0
    assert set(told["holds"].values()) == {True}
    return {"faults": sum(told["faults"].values())}


@cache
def figures() -> dict[str, float]:
    """Every figure by the name that the sentences have for it."""
    tables: dict[str, dict[str, float]] = {
        **kernels(),
        "peer": peer(),
        "real": episodes("run-so101-touch-50.json"),
        "simulated": episodes("run-simulated-time-50.json"),
        "emulated": episodes("run-emulated-arm-50.json"),
        "seams": seams(),
        "loops": loops(),
        "bus": bus(),
        "soak": soak(),
    }
    return {f"{table}.{name}": value for table, values in tables.items() for name, value in values.items()}


@pytest.mark.parametrize(("document", "sentence"), SAID)
def test_a_figure_is_that_of_its_file(document: str, sentence: str) -> None:
    said = re.sub(r"\{([\w.]+)(:[^}]*)?\}", lambda m: format(figures()[m[1]], (m[2] or ":")[1:]), sentence)
    text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert said in text


def test_every_recorded_file_is_in_the_list_and_the_other_way_round() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / FILES).read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(listed) == sorted(path.name for path in BENCHMARKS.iterdir() if path.suffix != ".md")


def test_the_simulated_run_took_the_times_that_are_said() -> None:
    assert recorded("run-simulated-time-50.json")["time"]["inference_time"] == "0.1"
