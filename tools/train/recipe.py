"""What is trained, on how much data, for how long. ``shipped`` made ``models/so101-touch``; ``tiny`` is for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from release import FLOW_STEPS, Shapes
from snapshots import SnapshotPlan
from stages import Stage
from visits import VisitPlan


@dataclass(frozen=True)
class Recipe:
    """Data and stages, in order."""

    data: SnapshotPlan
    stages: tuple[Stage, ...]
    held_out_scenes: int = 100
    shapes: Shapes = field(default_factory=Shapes)
    seed: int = 0
    visit_weight: float = 3.0
    """How often a visited state is drawn, as a multiple of any other snapshot."""
    visit_seed: int = 100_000

    def visits(self, stage: Stage) -> VisitPlan:
        """Return the episodes that the policy runs before ``stage``; no two stages share a seed."""
        earlier = self.stages[: self.stages.index(stage)]
        first = self.visit_seed + sum(one.visits_before for one in earlier)
        return VisitPlan(episodes=stage.visits_before, first_seed=first, flow_steps=FLOW_STEPS)


RECIPES: Mapping[str, Recipe] = {
    "shipped": Recipe(
        data=SnapshotPlan(scenes=12_000),
        stages=(
            Stage("grounding", steps=500, batch=32, learning_rate=1.5e-3, decay_steps=800, hand_over="weights"),
            Stage("flow", steps=600, batch=32, learning_rate=1e-3, flow_times=2, seed=1),
            Stage(
                "flow_visits", steps=500, batch=32, learning_rate=8e-4, flow_times=2, seed=2, visits_before=360
            ),
        ),
    ),
    "tiny": Recipe(
        data=SnapshotPlan(scenes=8, per_scene=4),
        held_out_scenes=4,
        shapes=Shapes(
            vision_width=32, vision_layers=2, vision_heads=2, width=32, layers=2, heads=2, kv_heads=1, mlp=48,
            expert_width=32, expert_heads=2,
        ),
        stages=(
            Stage("grounding", steps=4, batch=4, learning_rate=1e-3, hand_over="weights"),
            Stage("flow", steps=4, batch=4, learning_rate=1e-3, flow_times=2, seed=1),
            Stage("flow_visits", steps=2, batch=4, learning_rate=1e-3, flow_times=2, seed=2, visits_before=1),
        ),
    ),
}  # fmt: skip
