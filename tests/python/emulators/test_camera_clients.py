"""opencv and linuxpy, as they are, on an emulated camera: the cases are in camera_clients_cases.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulators.shimmed import case_names, run_cases

CASES = Path(__file__).with_name("camera_clients_cases.py")

pytest.importorskip("cv2")
pytest.importorskip("linuxpy")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    return run_cases(CASES, tmp_path_factory.mktemp("camera"))


@pytest.mark.parametrize("name", case_names(CASES))
def test_client(name: str, outcomes: dict[str, str | None]) -> None:
    assert name in outcomes
    assert outcomes[name] is None, outcomes[name]
