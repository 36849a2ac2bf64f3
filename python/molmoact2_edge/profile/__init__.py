"""Is this computer good enough? The control loop under load, the same in Python beside it, and a verdict."""

from __future__ import annotations

from molmoact2_edge.profile.document import build_document
from molmoact2_edge.profile.loads import LOADS, loaded, parse_loads
from molmoact2_edge.profile.page import page
from molmoact2_edge.profile.session import Measurement, ProfileSettings, measure, with_rate
from molmoact2_edge.profile.tables import as_text
from molmoact2_edge.profile.ticks import Ticks
from molmoact2_edge.profile.trace_events import trace
from molmoact2_edge.profile.verdict import Evidence, Finding, Verdict, judge

__all__ = [
    "LOADS",
    "Evidence",
    "Finding",
    "Measurement",
    "ProfileSettings",
    "Ticks",
    "Verdict",
    "as_text",
    "build_document",
    "judge",
    "loaded",
    "measure",
    "page",
    "parse_loads",
    "trace",
    "with_rate",
]
