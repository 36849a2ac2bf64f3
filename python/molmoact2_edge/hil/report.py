"""The session as a document: JSON, JUnit XML for a build server, and one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from molmoact2_edge.build import build_config
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.hil.checks import Check, Verdict
from molmoact2_edge.hil.plots import histogram_plot, lines_plot
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.profile.ticks import duration

_HERE = Path(__file__).parent
_STYLE = _HERE.parent / "profile" / "page.css"
_MARKS = {Verdict.PASSED: "good", Verdict.FAILED: "bad", Verdict.SKIPPED: "unknown"}
_SPREADS = (
    ("period", "period"),
    ("round_trip", "read, there and back"),
    ("write", "write"),
    ("bus", "bus, both"),
)
_COLUMNS = (("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"), ("max", "max_ms"))


def build_document(checks: Sequence[Check], config: RobotConfig, about: dict[str, Any]) -> dict[str, Any]:
    """Return JSON-ready values; ``about`` says which arm it was and how it was tested."""
    counts = {verdict.value: sum(check.verdict is verdict for check in checks) for verdict in Verdict}
    return {
        "format": "molmoact2_edge_hil.v1",
        "passed": counts["failed"] == 0,
        "counts": counts,
        "about": about,
        "checks": [{**asdict(check), "verdict": check.verdict.value} for check in checks],
        "robot": config.as_dict(),
        "machine": machine_facts(),
        "build": dict(build_config()),
    }


def junit(checks: Sequence[Check], suite: str) -> str:
    """Return the checks as JUnit XML; a group is a class."""
    root = ElementTree.Element(
        "testsuite",
        name=suite,
        tests=str(len(checks)),
        failures=str(sum(check.verdict is Verdict.FAILED for check in checks)),
        skipped=str(sum(check.verdict is Verdict.SKIPPED for check in checks)),
        time=f"{sum(check.duration_s for check in checks):.3f}",
    )
    for check in checks:
        case = ElementTree.SubElement(
            root, "testcase", classname=check.group, name=check.name, time=f"{check.duration_s:.3f}"
        )
        if check.verdict is Verdict.FAILED:
            failure = ElementTree.SubElement(case, "failure", message=_xml("; ".join(check.reasons)))
            failure.text = _xml("\n".join(check.reasons))
        elif check.verdict is Verdict.SKIPPED:
            ElementTree.SubElement(case, "skipped", message=_xml("; ".join(check.reasons)))
        figures = ElementTree.SubElement(case, "system-out")
        figures.text = _xml(json.dumps(_told(check.figures), indent=1))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def page(document: dict[str, Any], checks: Sequence[Check]) -> str:
    """Return the HTML."""
    counts, about = document["counts"], document["about"]
    word = "passed" if document["passed"] else "failed"
    verdict = ", ".join(f"{count} {name}" for name, count in counts.items())
    fields = {
        "style": _STYLE.read_text(encoding="utf-8") + (_HERE / "page.css").read_text(encoding="utf-8"),
        "title": html.escape(f"molmoact2-edge hil · {about['arm']}"),
        "mark": "good" if document["passed"] else "bad",
        "word": word,
        "verdict": html.escape(verdict),
        "checks": _checks(checks),
        "timing": _timing(checks),
        "tracking": _tracking(checks),
        "facts": _facts(document),
    }
    text = (_HERE / "page.html").read_text(encoding="utf-8")
    for name, value in fields.items():
        before, _, after = text.partition(f"{{{{{name}}}}}")
        text = before + value + after
    return text


def _checks(checks: Sequence[Check]) -> str:
    rows = []
    for check in checks:
        reasons = f"<br><em>{html.escape('; '.join(check.reasons))}</em>" if check.reasons else ""
        rows.append(
            f'<tr class="{_MARKS[check.verdict]}"><th>{html.escape(check.group)}: {html.escape(check.name)}{reasons}'
            f"</th><td>{check.verdict.value}</td><td>{html.escape(_in_short(check))}</td></tr>"
        )
    return "\n".join(rows)


def _in_short(check: Check) -> str:
    """The figures that say most about a check."""
    figures = check.figures
    told = []
    for key, text in (
        ("until_state_ms", "to the promised state"),
        ("until_driver_fault_ms", "to the driver's word"),
        ("until_running_again_ms", "to running again"),
        ("until_rest_ms", "to rest"),
        ("lag_ms", "lag"),
    ):
        if figures.get(key) is not None:
            told.append(f"{text} {duration(figures[key])}")
    if "error_rms" in figures:
        told.append(f"off by {figures['error_rms']:g}")
    if "round_trip" in figures:
        told.append(f"read {duration(figures['round_trip']['p50_ms'])}")
    return ", ".join(told)


def _timing(checks: Sequence[Check]) -> str:
    parts = []
    for check in checks:
        if "round_trip_histogram" not in check.figures:
            continue
        head = "".join(f"<th>{name}</th>" for name, _ in _COLUMNS)
        rows = [f"<tr><th>{html.escape(check.name)}</th>{head}</tr>"]
        for key, label in _SPREADS:
            cells = "".join(f"<td>{duration(check.figures[key][column])}</td>" for _, column in _COLUMNS)
            rows.append(f"<tr><th>{label}</th>{cells}</tr>")
        parts.append(f'<div class="scroll"><table>{"".join(rows)}</table></div>')
        parts.append(
            histogram_plot(check.figures["round_trip_histogram"], f"{check.name}: read, there and back")
        )
    return "\n".join(parts) or "<p>Not measured.</p>"


def _tracking(checks: Sequence[Check]) -> str:
    plots = [lines_plot(check.figures["plot"], check.name) for check in checks if "plot" in check.figures]
    return "\n".join(plots) or "<p>Not measured.</p>"


def _facts(document: dict[str, Any]) -> str:
    about, machine = document["about"], document["machine"]
    facts = [
        *((key.replace("_", " "), json.dumps(value) if isinstance(value, (dict, list)) else str(value))
          for key, value in about.items()),
        ("processor", f"{machine['processor']}, {machine['cores_usable']} cores usable"),
        ("kernel", f"{machine['kernel']}, {'' if machine['preempt_rt'] else 'no '}PREEMPT_RT"),
        ("versions", f"Python {machine['python']}, molmoact2-edge {machine['packages']['molmoact2-edge']}"),
    ]  # fmt: skip
    return "\n".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts)


def _told(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in ("plot", "round_trip_histogram")}


def _xml(text: str) -> str:
    """What XML 1.0 can hold of a text."""
    return "".join(sign for sign in text if sign in "\t\n\r" or sign >= " ")
