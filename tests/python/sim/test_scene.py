"""Drawing scenes: reproducible, within their ranges, without drift, and with consistent physics."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim import CAMERAS, COLOURS, SceneParameters, World

SEEDS = range(40)


def test_same_seed_same_scene_and_pixels() -> None:
    first, second = World(0), World(99)
    second.reset()
    a, b = first.reset(np.random.default_rng(5)), second.reset(np.random.default_rng(5))
    assert a == b
    for camera in CAMERAS:
        np.testing.assert_array_equal(first.render(camera), second.render(camera))


def test_other_seed_other_scene() -> None:
    world = World(0)
    assert world.reset(np.random.default_rng(1)) != world.reset(np.random.default_rng(2))


def test_scenes_do_not_drift() -> None:
    world = World(0)
    world.reset(np.random.default_rng(7))
    fields = ("cam_pos", "cam_quat", "light_dir", "light_diffuse", "geom_rgba", "body_mass", "body_inertia")
    before = {name: getattr(world.model, name).copy() for name in fields}
    for seed in SEEDS:
        world.reset(np.random.default_rng(seed))
    world.reset(np.random.default_rng(7))
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(world.model, name), value, err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_scene_within_its_parameters(seed: int) -> None:
    parameters = SceneParameters()
    world = World(0, parameters=parameters)
    scene = world.reset(np.random.default_rng(seed))
    assert tuple(block.colour for block in scene.blocks) == COLOURS
    places = np.array([block.position[:2] for block in scene.blocks])
    assert (places[:, 0] >= parameters.block_x[0]).all()
    assert (places[:, 0] <= parameters.block_x[1]).all()
    assert (np.abs(places[:, 1]) <= parameters.block_y[1]).all()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.hypot(*(places[i] - places[j])) >= parameters.block_separation
    np.testing.assert_allclose(world.positions(), scene.start, atol=1e-9)
    np.testing.assert_allclose(world.block_half_sizes(), [block.half_size for block in scene.blocks])
    np.testing.assert_allclose(world.block_positions(), [block.position for block in scene.blocks])
    assert world.touches == ()


def test_blocks_of_any_size_rest_on_the_table() -> None:
    world = World(0, parameters=SceneParameters(block_half_size=(0.008, 0.020), block_separation=0.07))
    for seed in range(5):
        scene = world.reset(np.random.default_rng(seed))
        world.step(world.positions(), 1.0)
        np.testing.assert_allclose(world.block_positions(), [b.position for b in scene.blocks], atol=5e-4)


def test_mass_follows_size() -> None:
    world = World(0)
    for seed in range(5):
        world.reset(np.random.default_rng(seed))
        masses = [float(world.model.body(f"{colour}_block").mass[0]) for colour in COLOURS]
        np.testing.assert_allclose(masses, 500.0 * (2 * world.block_half_sizes()) ** 3, rtol=1e-9)


def test_everything_varies() -> None:
    world = World(0)
    seen: dict[str, list[np.ndarray]] = {}
    for seed in range(3):
        world.reset(np.random.default_rng(seed))
        for name in ("cam_pos", "cam_quat", "light_dir", "light_diffuse", "geom_rgba", "geom_size", "qpos0"):
            seen.setdefault(name, []).append(getattr(world.model, name).copy())
    for name, values in seen.items():
        same = all(np.array_equal(values[0], value) for value in values[1:])
        assert same == (name == "qpos0"), name


def test_impossible_parameters_are_named() -> None:
    with pytest.raises(RobotError, match="block_separation"):
        World(0, parameters=SceneParameters(block_separation=0.5))
    with pytest.raises(RobotError, match="start_place"):
        World(0, parameters=SceneParameters(start_place=(0.7, 0.0, 0.1)))


def test_image_size_is_checked() -> None:
    with pytest.raises(InputError, match="image_size"):
        World(0, image_size=(0, 112))
