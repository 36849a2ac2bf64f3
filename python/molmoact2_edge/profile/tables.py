"""The same figures for a terminal."""

from __future__ import annotations

from typing import Any

_COLUMNS = ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")


def as_text(document: dict[str, Any]) -> str:
    """Return the main figures, the findings and, last, the verdict."""
    settings, loops = document["settings"], document["loops"]
    loads = ", ".join(settings["loads"]) or "none"
    lines = [
        f"{settings['robot']} at {settings['rate_hz']:g} Hz for {settings['duration_s']:g} s, load: {loads}",
        "",
        f"{'milliseconds':<28}{'p50':>10}{'p95':>10}{'p99':>10}{'p99.9':>10}{'max':>10}",
    ]
    for name, key in (("C++", "cpp"), ("Python", "python")):
        loop = loops[key]
        lines += [
            _row(f"period error, {name}", loop["period_error"]),
            _row(f"wake-up delay, {name}", loop["lateness"]),
            _row(f"work, {name}", loop["stages"]["compute"]),
        ]
    if document["predictions"] is not None:
        for stage, spread in document["predictions"]["stages"].items():
            lines.append(_row(f"policy, {stage}", spread))
    lines += [
        "",
        *(
            f"{name}: {loop['ticks']} ticks, {loop['skipped_periods']} periods skipped, "
            f"{loop['in_time_share']:.2%} in time"
            for name, loop in (("C++", loops["cpp"]), ("Python", loops["python"]))
        ),
        "",
    ]
    for finding in document["verdict"]["findings"]:
        lines.append(f"{'-' if finding['weight'] == 'note' else '!'} {finding['text']}")
        if finding["advice"]:
            lines.append(f"  -> {finding['advice']}")
    return "\n".join([*lines, "", document["verdict"]["text"]])


def _row(label: str, spread: dict[str, float]) -> str:
    return f"{label:<28}" + "".join(f"{spread[column]:>10.3f}" for column in _COLUMNS)
