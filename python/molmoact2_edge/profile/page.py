"""The report as one HTML file that needs nothing else: text and tables are in it, its script draws the plots."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.profile.session import Measurement
from molmoact2_edge.profile.ticks import STAGES, Poses, Ticks, Times, duration, largest_over_time

_HERE = Path(__file__).parent
_TRACKING_POINTS = 400
_MARKS = {True: "good", False: "bad", None: "unknown"}
_WORDS = {True: "holds", False: "does not hold", None: "no verdict"}
_COLUMNS = (("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("max", "max_ms"))


def page(document: dict[str, Any], measurement: Measurement, joint_names: list[str]) -> str:
    """Return the HTML of a measurement and the document made from it."""
    verdict = document["verdict"]
    fields = {
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": (_HERE / "page.js").read_text(encoding="utf-8"),
        "data": _for_script(plot_data(document, measurement, joint_names)),
        "mark": _MARKS[verdict["held"]],
        "word": _WORDS[verdict["held"]],
        "verdict": html.escape(verdict["text"]),
        "subtitle": html.escape(_subtitle(document)),
        "tiles": _tiles(document),
        "findings": _findings(verdict["findings"]),
        "spreads": _spreads(document),
        "facts": _facts(document),
    }
    text = (_HERE / "page.html").read_text(encoding="utf-8")
    # The data comes last: what it holds is never taken for a field.
    for name in (*(name for name in fields if name != "data"), "data"):
        text = text.replace(f"{{{{{name}}}}}", fields[name], 1)
    return text


def plot_data(document: dict[str, Any], measurement: Measurement, joint_names: list[str]) -> dict[str, Any]:
    """Return what the script draws, times in seconds from the window's beginning, durations in milliseconds."""
    begin, end, period = measurement.begin_ns, measurement.end_ns, measurement.period_ns
    loops = document["loops"]
    groups = [
        _waterfall("C++ loop, one tick", {stage: loops["cpp"]["stages"][stage] for stage in STAGES}),
        _waterfall("Python loop, one tick", {stage: loops["python"]["stages"][stage] for stage in STAGES}),
    ]
    if document["predictions"] is not None:
        stages = dict(document["predictions"]["stages"])
        stages.pop("total", None)
        groups.append(_waterfall("policy, one prediction", stages))
    return {
        "period_ms": period / 1e6,
        "duration_s": (end - begin) / 1e9,
        "histogram": {name: loops[name]["period_error_histogram"] for name in ("cpp", "python")},
        "p99_ms": {name: loops[name]["period_error"]["p99_ms"] for name in ("cpp", "python")},
        "timeline": {
            name: largest_over_time(ticks.wakeup[1:], ticks.period_errors(period), begin, end)
            for name, ticks in (("cpp", measurement.cpp), ("python", measurement.python))
        },
        "calls": [
            [round((call.begin_ns - begin) / 1e9, 4), round(call.total_s, 4)] for call in measurement.calls
        ],
        "waterfall": groups,
        "tracking": {
            "joints": joint_names,
            "cpp": _poses(measurement.cpp, begin),
            "python": _poses(measurement.python, begin),
        },
    }


def _waterfall(title: str, stages: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows, begin = [], 0.0
    for stage, spread in stages.items():
        rows.append(
            {"name": stage, "begin_ms": begin, "p50_ms": spread["p50_ms"], "p99_ms": spread["p99_ms"]}
        )
        begin += spread["p50_ms"]
    return {"title": title, "rows": rows}


def _poses(ticks: Ticks, begin_ns: int) -> dict[str, Any]:
    chosen = np.unique(np.linspace(0, max(0, len(ticks) - 1), _TRACKING_POINTS).astype(np.int64))
    chosen = chosen[: len(ticks)]
    seconds: Times = ticks.wakeup[chosen] - begin_ns

    def rows(poses: Poses) -> list[list[float]]:
        return [[round(float(value), 3) for value in column] for column in poses[chosen].T]

    return {
        "s": [round(float(second) / 1e9, 4) for second in seconds],
        "target": rows(ticks.target),
        "measured": rows(ticks.measured),
    }


def _for_script(data: dict[str, Any]) -> str:
    # "<" could end the script element; in JSON it may be written as an escape.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _subtitle(document: dict[str, Any]) -> str:
    settings = document["settings"]
    loads = " + ".join(settings["loads"]) or "no load"
    return f"{settings['robot']}, {settings['rate_hz']:g} Hz, {settings['duration_s']:g} s, {loads}"


def _tiles(document: dict[str, Any]) -> str:
    cpp, python = document["loops"]["cpp"], document["loops"]["python"]
    tiles = [
        ("C++ period error, p99", duration(cpp["period_error"]["p99_ms"]), "cpp"),
        ("Python period error, p99", duration(python["period_error"]["p99_ms"]), "python"),
        ("Python / C++", f"{document['python_over_cpp']['period_error_p99']:g} times", ""),
        ("C++ ticks in time", f"{cpp['in_time_share']:.2%}", "cpp"),
        ("Python ticks in time", f"{python['in_time_share']:.2%}", "python"),
    ]
    return "\n".join(
        f'<div class="tile {kind}"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
        for label, value, kind in tiles
    )


def _findings(findings: list[dict[str, str]]) -> str:
    if not findings:
        return '<li class="note">Nothing to do.</li>'
    rows = []
    for finding in findings:
        advice = f"<br><em>{html.escape(finding['advice'])}</em>" if finding["advice"] else ""
        rows.append(f'<li class="{finding["weight"]}">{html.escape(finding["text"])}{advice}</li>')
    return "\n".join(rows)


def _spreads(document: dict[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name, _ in _COLUMNS)
    rows = [f"<tr><th></th>{head}</tr>"]
    for name, key in (("C++", "cpp"), ("Python", "python")):
        loop = document["loops"][key]
        for label, spread in (
            ("period error", loop["period_error"]),
            ("wake-up delay", loop["lateness"]),
            ("read", loop["stages"]["read"]),
            ("compute", loop["stages"]["compute"]),
            ("write", loop["stages"]["write"]),
        ):
            rows.append(_spread_row(f"{name}: {label}", spread, key))
    if document["predictions"] is not None:
        rows += [
            _spread_row(f"policy: {stage}", spread, "policy")
            for stage, spread in document["predictions"]["stages"].items()
        ]
    return "\n".join(rows)


def _spread_row(label: str, spread: dict[str, float], kind: str) -> str:
    cells = "".join(f"<td>{duration(spread[key])}</td>" for _, key in _COLUMNS)
    return f'<tr class="{kind}"><th>{html.escape(label)}</th>{cells}</tr>'


def _facts(document: dict[str, Any]) -> str:
    machine, system, scheduling = document["machine"], document["system"], document["scheduling"]
    thread = scheduling["cpp_thread"] or {}
    shares = system["processor_time_shares"]
    facts = [
        ("processor", f"{machine['processor']}, {machine['cores_usable']} cores usable"),
        ("virtual machine", _yes(machine["virtual_machine"])),
        ("kernel", f"{machine['kernel']}, {'' if machine['preempt_rt'] else 'no '}PREEMPT_RT"),
        ("frequency governor", machine["governor"] or "not visible"),
        ("processes grouped by session (autogroup)", _yes(machine["autogroup"])),
        ("C++ thread", f"{thread.get('policy', 'unknown')}, priority {thread.get('priority', 0)}"),
        ("cores it may use", thread.get("cpus", "unknown")),
        ("times its core was taken", str(thread.get("involuntary_switches", "unknown"))),
        ("memory locked", f"{scheduling['locked_bytes'] / 2**20:.0f} MiB"),
        (
            "processor time",
            ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items() if share >= 0.0005),
        ),
        ("taken by the hypervisor (steal)", f"{shares['steal']:.2%}"),
        ("pages swapped", str(system["swapped_pages"])),
        (
            "slowed down by heat",
            "not visible" if system["throttlings"] is None else f"{system['throttlings']} times",
        ),
        ("load average before", f"{system['load_average_before']:g}"),
        ("versions", f"Python {machine['python']}, molmoact2-edge {machine['packages']['molmoact2-edge']}"),
        ("compiled", f"{document['build']['build_type']}, {document['build']['cxx_compiler']}"),
    ]
    facts += [(f"refused: {warning['name']}", warning["text"]) for warning in scheduling["warnings"]]
    return "\n".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
