"""The measurement as ``profile.json``: settings, both loops' figures, the machine, the verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from molmoact2_edge.build import build_config
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.profile.calls import Call
from molmoact2_edge.profile.session import Measurement, ProfileSettings
from molmoact2_edge.profile.ticks import Ticks, histogram, spread
from molmoact2_edge.profile.verdict import Evidence, Verdict, fitting_rate, in_time_share, judge


def build_document(
    measurement: Measurement,
    settings: ProfileSettings,
    config: RobotConfig,
    policy: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return JSON-ready values; ``policy`` says which one was predicting meanwhile, and its first call.

    Durations end in ``_ms`` or ``_us``; shares are 0 to 1.
    """
    machine = machine_facts()
    evidence = gather(measurement, settings, config, machine, (policy or {}).get("failure"))
    verdict = judge(evidence)
    return {
        "format": "molmoact2_edge_profile.v1",
        "verdict": verdict_dict(verdict),
        "settings": {
            "rate_hz": settings.rate_hz,
            "duration_s": settings.duration_s,
            "loads": list(settings.loads),
            "swing": settings.swing,
            "robot": config.name,
        },
        "loops": {
            "cpp": _loop(measurement.cpp, measurement.period_ns),
            "python": _loop(measurement.python, measurement.period_ns),
        },
        "python_over_cpp": {
            "period_error_p99": round(evidence.python_ratio, 1),
            "note": "both loops ran at the same time under the same load; larger is worse for Python",
        },
        "gate": {
            "states": measurement.states,
            "reasons": measurement.reasons,
            "held_reasons": measurement.held_reasons,
        },
        "predictions": None if policy is None else {**policy, **_predictions(measurement.calls)},
        "scheduling": {
            "fifo_priority_asked": config.loop.fifo_priority,
            "cpp_thread": None if measurement.cpp_thread is None else asdict(measurement.cpp_thread),
            "python_thread": None if measurement.python_thread is None else asdict(measurement.python_thread),
            "lock_memory_asked": config.loop.lock_memory,
            "locked_bytes": measurement.locked_bytes,
            "cpus_asked": list(config.loop.cpus),
            "warnings": [asdict(warning) for warning in measurement.warnings],
        },
        "system": {
            "load_average_before": measurement.load_before,
            "processor_time_shares": measurement.usage.shares,
            "swapped_pages": measurement.usage.swapped_pages,
            "throttlings": measurement.usage.throttlings,
        },
        "machine": machine,
        "build": dict(build_config()),
    }


def gather(
    measurement: Measurement,
    settings: ProfileSettings,
    config: RobotConfig,
    machine: dict[str, Any],
    policy_failure: str | None = None,
) -> Evidence:
    """Return what the verdict's rules read."""
    cpp, period = measurement.cpp, measurement.period_ns
    errors = spread(cpp.period_errors(period))
    completion = cpp.completion()
    held = measurement.held_reasons
    return Evidence(
        rate_hz=settings.rate_hz,
        loads=settings.loads,
        ticks=len(cpp),
        in_time_share=in_time_share(completion, cpp.skipped, period),
        fitting_rate_hz=fitting_rate(completion),
        error_p99_ms=errors["p99_ms"],
        error_p999_ms=errors["p999_ms"],
        error_max_ms=errors["max_ms"],
        python_error_p99_ms=spread(measurement.python.period_errors(period))["p99_ms"],
        bus_p99_ms=spread(cpp.read + cpp.write)["p99_ms"],
        held_share=sum(held.values()) / max(1, len(cpp)),
        held_reason=max(held, key=lambda reason: held[reason], default="none"),
        fifo_asked=config.loop.fifo_priority > 0,
        fifo_granted=measurement.cpp_thread is not None and measurement.cpp_thread.policy == "SCHED_FIFO",
        memory_asked=config.loop.lock_memory,
        memory_locked=not any(warning.name == "memory_lock_refused" for warning in measurement.warnings),
        governor=machine["governor"],
        autogroup=machine["autogroup"],
        preempt_rt=machine["preempt_rt"],
        virtual_machine=machine["virtual_machine"],
        steal=measurement.usage.steal,
        swapped_pages=measurement.usage.swapped_pages,
        throttlings=measurement.usage.throttlings,
        policy_failure=policy_failure,
    )


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as JSON-ready values."""
    return {"held": verdict.held, "text": verdict.text, "findings": [asdict(f) for f in verdict.findings]}


def _loop(ticks: Ticks, period_ns: int) -> dict[str, Any]:
    errors = ticks.period_errors(period_ns)
    return {
        "ticks": len(ticks),
        "skipped_periods": int(ticks.skipped.sum()),
        "in_time_share": round(in_time_share(ticks.completion(), ticks.skipped, period_ns), 6),
        "period_error": spread(errors),
        "lateness": spread(ticks.lateness()),
        "completion": spread(ticks.completion()),
        "stages": {stage: spread(durations) for stage, durations in ticks.stages().items()},
        "period_error_histogram": histogram(errors),
    }


def _predictions(calls: list[Call]) -> dict[str, Any]:
    stages: dict[str, list[float]] = {}
    for call in calls:
        for stage, seconds in call.stages.items():
            stages.setdefault(stage, []).append(seconds)
    every = {**stages, "total": [call.total_s for call in calls]}
    return {
        "calls": len(calls),
        "stages": {
            stage: spread((np.array(seconds) * 1e9).astype(np.int64)) for stage, seconds in every.items()
        },
    }
