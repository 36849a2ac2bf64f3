"""Policies of both kinds: plain torch, and static calls that are recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from static.replay import ReplayedExecution

from molmoact2_edge import OpenFast, Policy


@pytest.fixture(scope="session")
def plain(reference: Path) -> Callable[[str], Policy]:
    """Return the eager policy of a checkpoint, one for all tests."""

    @lru_cache
    def load(name: str) -> Policy:
        policy = Policy.from_pretrained(reference / name, device="cpu", dtype="float32", execution="eager")
        policy.action_tokenizer = OpenFast.from_pretrained(reference / "openfast-tiny")
        return policy

    return load


@pytest.fixture(scope="session")
def replayed(reference: Path) -> Callable[[str], tuple[Policy, ReplayedExecution]]:
    """Return a new policy of a checkpoint that replays, and what it replays."""

    @lru_cache
    def load(name: str) -> Policy:
        return Policy.from_pretrained(reference / name, device="cpu", dtype="float32", execution="static")

    def make(name: str) -> tuple[Policy, ReplayedExecution]:
        loaded = load(name)
        execution = ReplayedExecution()
        tokenizer = OpenFast.from_pretrained(reference / "openfast-tiny")
        return Policy(
            loaded.model, loaded.processor, action_tokenizer=tokenizer, execution=execution
        ), execution

    return make
