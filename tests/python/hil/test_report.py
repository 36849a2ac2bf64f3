"""Checks and what is written of them."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import RobotError
from molmoact2_edge.hil import Checklist, Verdict, build_document, junit, page
from molmoact2_edge.hil.motion import following, room, stand, sway
from molmoact2_edge.profile.ticks import histogram, spread


@pytest.fixture
def checklist() -> Checklist:
    said: list[str] = []
    checks = Checklist(said.append)
    with checks.check("identification", "joints") as check:
        check.figures["robot"] = "an arm <on> a port"
    with checks.check("limits", "jump") as check:
        check.require(False, "the command moved by 3 & more\x00")
        check.require(False, "and once more")
    with checks.check("stops", "then damp") as check:
        check.skip("a real arm would sink")
    with checks.check("timing", "50 Hz") as check:
        times = np.array([1_000_000, 1_200_000, 900_000])
        check.figures.update({key: spread(times) for key in ("period", "round_trip", "write", "bus")})
        check.figures["round_trip_histogram"] = histogram(times)
    with checks.check("tracking", "elbow_flex") as check:
        check.figures.update(lag_ms=80.0, error_rms=0.2)
        check.figures["plot"] = {
            "s": [0.0, 1.0, 2.0],
            "command": [0.0, 5.0, 0.0],
            "measured": [0.0, 4.0, 1.0],
        }
    with checks.check("faults", "unplugged"):
        raise RobotError("no answer from servo 3")
    return checks


def test_a_check_goes_on_after_what_does_not_hold_and_a_device_error_is_its_failure(
    checklist: Checklist,
) -> None:
    verdicts = [check.verdict for check in checklist.checks]
    assert verdicts == [
        Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED, Verdict.PASSED, Verdict.PASSED, Verdict.FAILED
    ]  # fmt: skip
    assert checklist.checks[1].reasons == ["the command moved by 3 & more\x00", "and once more"]
    assert checklist.checks[2].reasons == ["a real arm would sink"]
    assert checklist.checks[5].reasons == ["RobotError: no answer from servo 3"]
    assert checklist.count(Verdict.FAILED) == 2


def test_an_error_that_is_no_device_error_is_not_swallowed() -> None:
    checks = Checklist(lambda _: None)
    with pytest.raises(ZeroDivisionError), checks.check("stops", "the API"):
        raise ZeroDivisionError


def test_junit_names_every_check_and_why_it_failed(checklist: Checklist) -> None:
    root = ElementTree.fromstring(junit(checklist.checks, "hil so101"))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("6", "2", "1")
    cases = {case.get("name"): case for case in root}
    assert cases["jump"].find("failure").get("message") == "the command moved by 3 & more; and once more"  # type: ignore[union-attr]
    assert cases["then damp"].find("skipped").get("message") == "a real arm would sink"  # type: ignore[union-attr]
    assert cases["joints"].get("classname") == "identification"
    told = json.loads(cases["elbow_flex"].find("system-out").text)  # type: ignore[union-attr,arg-type]
    assert told == {"lag_ms": 80.0, "error_rms": 0.2}


def test_the_page_needs_nothing_else_and_has_every_check(checklist: Checklist) -> None:
    about: dict[str, Any] = {"arm": "so101 on <port>", "emulated": True}
    document = build_document(checklist.checks, load_robot("so101"), about)
    assert json.loads(json.dumps(document, allow_nan=False))["counts"] == {
        "passed": 3, "failed": 2, "skipped": 1
    }  # fmt: skip
    assert not document["passed"]
    text = page(document, checklist.checks)
    assert not re.search(r"\{\{\w+\}\}", text)
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)|@import|url\(", text)
    for check in checklist.checks:
        assert f"{check.group}: {check.name}" in text
    assert "so101 on &lt;port&gt;" in text
    assert text.count("<svg") == 2


def record(at_s: float, command: float, measured_at_s: float, measured: float) -> dict[str, Any]:
    return {
        "written_ns": 1_000_000_000 + round(at_s * 1e9),
        "measured_ns": 1_000_000_000 + round(measured_at_s * 1e9),
        "command": np.array([0.0, command]),
        "measured": np.array([0.0, measured]),
    }


@pytest.mark.parametrize(("lag", "offset"), [(0.08, 0.0), (0.25, 1.5), (0.0, -2.0)])
def test_lag_and_error_are_told_apart(lag: float, offset: float) -> None:
    def pose(t: float) -> float:
        return float(8.0 * (1.0 - np.cos(2.0 * np.pi * 0.5 * t)))

    times = np.arange(0.0, 3.0, 0.02)
    records = [record(t, pose(t), t - 0.003, pose(t - 0.003 - lag) + offset) for t in times]
    found = following(records, 1)  # type: ignore[arg-type]
    assert found.lag_s == pytest.approx(lag, abs=0.003)
    assert found.error_rms == pytest.approx(abs(offset), abs=0.1)
    assert found.range == pytest.approx(16.0, abs=0.1)


def test_motions_start_at_rest_where_the_arm_is_and_stay_inside() -> None:
    pose, low, high = np.array([0.0, 95.0, -50.0]), np.full(3, -100.0), np.full(3, 100.0)
    away = room(pose, low, high, np.array([10.0, 10.0, 500.0]))
    assert away.tolist() == [10.0, -10.0, 75.0]
    times = np.arange(0.0, 4.0, 0.001)
    rows = sway(pose, away, 0.5)(times)
    assert np.abs(rows[0] - pose).max() == 0.0
    assert np.abs(rows[1] - rows[0]).max() < 1e-3
    assert (rows >= low).all()
    assert (rows <= high).all()
    assert np.ptp(rows, axis=0) == pytest.approx(np.abs(away))
    assert stand(pose)(times[:3]).tolist() == [pose.tolist()] * 3
