"""The check with which every method of a robot begins: is it in a state that the method allows?"""

from __future__ import annotations

from molmoact2_drivers.protocol import LifeCycle
from molmoact2_edge.errors import RobotError


def require_life_cycle(name: str, now: LifeCycle, fault: str | None, *allowed: LifeCycle) -> None:
    """Do nothing where the robot ``name`` is in an allowed state.

    Raises:
        RobotError: it is not; names its state, its fault and the states that would do.
    """
    if now not in allowed:
        wanted = " or ".join(state.value for state in allowed)
        cause = f" ({fault})" if fault else ""
        raise RobotError(f"{name} is {now.value}{cause}, but must be {wanted} for this")
