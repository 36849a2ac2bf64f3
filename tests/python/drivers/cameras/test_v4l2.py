"""The V4L2 driver on an emulated camera with all its faults: the cases are in v4l2_cases.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulators.shimmed import case_names, run_cases

CASES = Path(__file__).with_name("v4l2_cases.py")

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    return run_cases(CASES, tmp_path_factory.mktemp("camera"))


@pytest.mark.parametrize("name", case_names(CASES))
def test_driver(name: str, outcomes: dict[str, str | None]) -> None:
    assert name in outcomes
    assert outcomes[name] is None, outcomes[name]
