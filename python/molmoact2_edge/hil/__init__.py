"""Tests of an arm on its wire, real or emulated: who it is, timing, tracking, limits, stops, faults, and a report."""

from __future__ import annotations

from molmoact2_edge.hil.checks import Check, Checklist, Verdict
from molmoact2_edge.hil.report import build_document, junit, page
from molmoact2_edge.hil.suite import Suite, SuiteSettings

__all__ = [
    "Check",
    "Checklist",
    "Suite",
    "SuiteSettings",
    "Verdict",
    "build_document",
    "junit",
    "page",
]
