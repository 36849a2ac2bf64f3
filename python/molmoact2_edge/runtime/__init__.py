"""Closed loop: cameras and a policy around the control thread, episode after episode, and the report of it."""

from __future__ import annotations

from molmoact2_edge.runtime.isolation import OpenPolicy, open_policy
from molmoact2_edge.runtime.policy_calls import PolicyCalls, PolicyLike, PredictionLike
from molmoact2_edge.runtime.report import build_report, summary, write_report
from molmoact2_edge.runtime.runner import Runner, RunSettings
from molmoact2_edge.runtime.scenario import Outcome, Scenario, open_scenario
from molmoact2_edge.runtime.worker import PolicyWorker

__all__ = [
    "OpenPolicy",
    "Outcome",
    "PolicyCalls",
    "PolicyLike",
    "PolicyWorker",
    "PredictionLike",
    "RunSettings",
    "Runner",
    "Scenario",
    "build_report",
    "open_policy",
    "open_scenario",
    "summary",
    "write_report",
]
