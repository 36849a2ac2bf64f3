"""What the released checkpoint of two YAMs calls its numbers, and what the robot calls them."""

from __future__ import annotations

import numpy as np

from molmoact2_edge.config import load_robot
from molmoact2_edge.processor import joint_convention

# The middle of what the checkpoint was trained on (its statistics' q50): radians, and shares of an open gripper.
TRAINED = [
    -0.073,
    1.449,
    1.283,
    -0.802,
    0.113,
    -0.222,
    0.733,
    0.082,
    1.542,
    1.252,
    -0.682,
    -0.129,
    0.192,
    0.697,
]


def test_the_checkpoint_s_poses_lie_within_the_robot_s_limits_in_the_same_order() -> None:
    config = load_robot("yam-bimanual")
    convention = joint_convention(config.policy.joint_convention)
    assert convention is not None
    pose = convention.from_model(TRAINED)
    np.testing.assert_allclose(pose[[1, 6, 8, 13]], [83.02, 73.3, 88.35, 69.7], atol=0.01)
    for value, joint in zip(pose, config.joints.values(), strict=True):
        assert joint.position[0] < value < joint.position[1]
    np.testing.assert_allclose(convention.to_model(pose), TRAINED, rtol=1e-6)
