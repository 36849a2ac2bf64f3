"""The task `touch the red|green|blue block`: its instruction, and how an episode ends."""

from __future__ import annotations

from dataclasses import dataclass

from molmoact2_edge.errors import InputError
from molmoact2_edge.sim.scene import COLOURS
from molmoact2_edge.sim.world import World

DEFAULT_TIME_LIMIT = 6.0
"""Seconds of simulated time; the scripted expert needs about 1.3."""


def instruction(colour: str) -> str:
    """The instruction for a colour, e.g. "touch the red block"."""
    if colour not in COLOURS:
        raise InputError(f"no {colour!r} block; the blocks are {', '.join(COLOURS)}")
    return f"touch the {colour} block"


def parse_instruction(text: str) -> str:
    """The colour that an instruction names; case, surrounding blanks and a final full stop do not matter.

    Raises:
        InputError: it is not an instruction of this task.
    """
    plain = " ".join(text.lower().split()).rstrip(".")
    for colour in COLOURS:
        if plain == instruction(colour):
            return colour
    raise InputError(f"expected 'touch the {'|'.join(COLOURS)} block'; got {text!r}")


@dataclass(frozen=True)
class Outcome:
    """How an episode stands."""

    done: bool
    success: bool
    reason: str
    """One sentence fragment for people, e.g. "touched the red block after 1.24 s"."""


@dataclass(frozen=True)
class TouchTask:
    """Touch the named block with the gripper before anything touches another block, within the time limit."""

    colour: str
    time_limit: float = DEFAULT_TIME_LIMIT

    def __post_init__(self) -> None:
        instruction(self.colour)

    @property
    def instruction(self) -> str:
        """The instruction that the policy is given."""
        return instruction(self.colour)

    def outcome(self, world: World) -> Outcome:
        """Judges by the first touches of the world; what happened before later ones stays true."""
        for touch in world.touches:
            if touch.colour != self.colour:
                what = f"{touch.part} touched the {touch.colour} block instead of the {self.colour} one"
                return Outcome(True, False, f"{what} after {touch.time:.2f} s")
            if touch.by_gripper:
                return Outcome(True, True, f"touched the {self.colour} block after {touch.time:.2f} s")
            what = f"the arm ({touch.part}) hit the {self.colour} block before the gripper touched it"
            return Outcome(True, False, f"{what}, after {touch.time:.2f} s")
        if world.time >= self.time_limit - 1e-9:
            return Outcome(True, False, f"touched no block within {self.time_limit:g} s")
        return Outcome(False, False, "under way")
