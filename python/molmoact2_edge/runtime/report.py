"""The report of a run: ``report.json``, and the same in a few lines for a terminal."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from molmoact2_edge.build import build_config
from molmoact2_edge.control.loop import DurationStatistics
from molmoact2_edge.errors import InputError
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.runtime.runner import Runner, settings_dict
from molmoact2_edge.runtime.status import gate_counts
from molmoact2_edge.telemetry.session import telemetry_lines


def build_report(runner: Runner, policy: dict[str, Any]) -> dict[str, Any]:
    """Return the report as JSON-ready values; ``policy`` says which policy it was and how it was loaded.

    Durations end in ``_ms`` or ``_s``. Counts of ``gate`` are in ticks of the loop, ``events`` count beginnings.
    """
    statistics = runner.loop.statistics()
    period = statistics["period"]
    return {
        "episodes": len(runner.results),
        "successes": runner.successes,
        "completed": runner.completed,
        "judged": runner.scenario.judged,
        "outcomes": [asdict(result) for result in runner.results],
        "loop": {
            "rate_hz": runner.config.loop.rate_hz,
            "mean_rate_hz": round(1.0 / period["mean_s"], 3) if period["mean_s"] > 0 else None,
            "ticks": statistics["ticks"],
            "executed_steps": statistics["executed_steps"],
            "overruns": statistics["overruns"],
            "skipped_periods": statistics["skipped_periods"],
            "read_failures": statistics["read_failures"],
            "write_failures": statistics["write_failures"],
            "period": _milliseconds(period),
            "wakeup_latency": _milliseconds(statistics["wakeup_latency"]),
            "bus": _milliseconds(statistics["bus"]),
            "busy": _milliseconds(statistics["busy"]),
            "state_age": _milliseconds(statistics["state_age"]),
            "observation_age": _milliseconds(statistics["observation_age"]),
            "observation_to_action": _milliseconds(statistics["observation_to_action"]),
        },
        "time": runner.time_facts(),
        "latency": runner.latencies.report(),
        "first_call_ms": None if runner.first_call_s is None else round(runner.first_call_s * 1e3, 3),
        "gate": {
            "states": statistics["state_ticks"],
            "reasons": statistics["reason_ticks"],
            "events": statistics["reason_events"],
            "chunks_taken": statistics["chunks_taken"],
            "rejected_chunks": statistics["rejected_chunks"],
        },
        "scheduling_warnings": [asdict(warning) for warning in runner.warnings],
        "unmeasured_levels": runner.unmeasured,
        "stop_pose_failure": runner.stop_pose_failure,
        "stop_socket_failure": runner.stop_socket_failure,
        "video_failure": runner.video_failure,
        "telemetry": None if runner.telemetry is None else runner.telemetry.facts(),
        "scenario": runner.scenario.facts(),
        "policy": policy,
        "settings": settings_dict(runner.settings),
        "robot": runner.config.as_dict(),
        "machine": machine_facts(),
        "build": dict(build_config()),
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the report as a whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            f"cannot write the report {path}: {error}; give another place with --report"
        ) from error


def summary(report: dict[str, Any]) -> str:
    """Return the report's main figures as a table for a terminal."""
    loop, period = report["loop"], report["loop"]["period"]
    judged = f"{report['successes']} of {report['episodes']} episodes succeeded"
    lines = [
        judged if report["judged"] else f"{report['episodes']} episodes, which nobody judged",
        "",
        f"{'loop':<24}{loop['mean_rate_hz'] or 0:>9.2f} Hz of {loop['rate_hz']:g}   "
        f"{loop['ticks']} ticks, {loop['overruns']} overruns, {loop['skipped_periods']} periods skipped",
        "",
        f"{'milliseconds':<24}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'count':>9}",
        _row("loop period", period),
        _row("loop wake-up latency", loop["wakeup_latency"]),
    ]
    lines += [_row(stage.replace("_", " "), spread) for stage, spread in report["latency"].items()]
    counts = gate_counts(report["gate"]["reasons"])
    if counts:
        lines += ["", f"gate, in ticks: {counts}"]
    lines += [f"warning {warning['name']}: {warning['text']}" for warning in report["scheduling_warnings"]]
    lines += [f"warning policy: {failure['message']}" for failure in report["policy"].get("failures", [])]
    lines += [f"warning: {sentence}" for sentence in report["unmeasured_levels"]]
    if report["stop_pose_failure"]:
        lines.append(f"warning stop pose: {report['stop_pose_failure']}")
    if report["stop_socket_failure"]:
        lines.append(f"warning stop socket: {report['stop_socket_failure']}")
    if report["video_failure"]:
        lines.append(f"warning video: {report['video_failure']}")
    if report["telemetry"]:
        lines += telemetry_lines(report["telemetry"])
    return "\n".join(lines)


def _row(label: str, spread: dict[str, float]) -> str:
    figures = "".join(f"{spread[key]:>9.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
    return f"{label:<24}{figures}{spread['count']:>9}"


def _milliseconds(duration: DurationStatistics) -> dict[str, float | int]:
    return {
        "count": duration["count"],
        "mean_ms": round(duration["mean_s"] * 1e3, 4),
        "p50_ms": round(duration["p50_s"] * 1e3, 4),
        "p95_ms": round(duration["p95_s"] * 1e3, 4),
        "p99_ms": round(duration["p99_s"] * 1e3, 4),
        "p999_ms": round(duration["p999_s"] * 1e3, 4),
        "max_ms": round(duration["max_s"] * 1e3, 4),
    }
