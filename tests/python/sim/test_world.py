"""Images, projections, contacts and refused input."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from molmoact2_edge.errors import InputError, MissingExtraError
from molmoact2_edge.sim import CAMERAS, COLOURS, SceneParameters, World, rendering
from molmoact2_edge.sim.world import to_degrees, to_radians


def test_units_invert() -> None:
    positions = np.array([[-110.0, 20.0, 0.0, 5.0, 160.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0, 100.0]])
    np.testing.assert_allclose(to_degrees(to_radians(positions)), positions, atol=1e-12)
    np.testing.assert_allclose(np.degrees(to_radians(positions))[:, 5], [-10.0, 100.0])


@pytest.mark.parametrize("size", [(112, 112), (84, 120), (1000, 1400)])
def test_image_shape(size: tuple[int, int]) -> None:
    world = World(0, image_size=size)
    image = world.render("front")
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    world.close()


def test_images_are_deterministic_and_own_their_pixels() -> None:
    world = World(0)
    first = world.render("front")
    kept = first.copy()
    np.testing.assert_array_equal(world.render("front"), kept)
    world.step(world.positions() + 20.0, 0.5)
    assert (world.render("front") != kept).any()
    np.testing.assert_array_equal(first, kept)


def dominant(pixel: np.ndarray) -> int | None:
    """Index of the channel that stands out, or None for grey."""
    ordered = np.argsort(pixel.astype(int))
    return int(ordered[-1]) if int(pixel[ordered[-1]]) - int(pixel[ordered[-2]]) > 40 else None


@pytest.mark.parametrize("camera", CAMERAS)
def test_projection_hits_the_block_of_that_colour(camera: str) -> None:
    world = World(0, image_size=(160, 200))
    checked = 0
    for seed in range(30):
        world.reset(np.random.default_rng(seed))
        points, image = world.image_points(camera), world.render(camera)
        for index in range(3):
            column, row = points.pixels[index]
            if points.visible[index] == 1.0:
                assert dominant(image[int(row), int(column)]) == index
                checked += 1
    assert checked > 60


def test_projection_is_the_centre_of_the_blob() -> None:
    world = World(0, image_size=(480, 480))
    for seed in range(10):
        world.reset(np.random.default_rng(seed))
        points, image = world.image_points("front"), world.render("front").astype(int)
        for index in range(3):
            others = np.delete(image, index, axis=2).max(axis=2)
            rows, columns = np.nonzero(image[..., index] - others > 25)
            assert rows.size > 300
            # Perspective and the faces that are seen shift the blob's mean by a few of its 40 pixels.
            assert points.pixels[index] == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=4.0)


def test_start_view_shows_every_block_in_front() -> None:
    world = World(0)
    for seed in range(100):
        world.reset(np.random.default_rng(seed))
        points = world.image_points("front")
        assert (points.visible > 0.5).all(), seed
        assert (points.pixels > 0).all()
        assert (points.pixels < 112).all()


def test_hidden_blocks_are_not_visible() -> None:
    world = World(4)
    index = 0
    assert world.image_points("front").visible[index] == 1.0
    # The block is put between the wrist and the base, under the arm, where the front camera cannot see it.
    address = int(world.model.joint("red_block").qposadr[0])
    world.data.qpos[address : address + 3] = (-0.02, 0.0, 0.0)
    assert world.image_points("front").visible[index] == 0.0
    world.data.qpos[address : address + 3] = (5.0, 0.0, 0.5)
    points = world.image_points("front")
    assert points.visible[index] == 0.0
    assert not np.isfinite(points.pixels[index]).any()  # behind the camera


@pytest.mark.parametrize("colour", COLOURS)
def test_first_contact_is_recorded(colour: str) -> None:
    world = World(11)
    index = COLOURS.index(colour)
    address = int(world.model.joint(f"{colour}_block").qposadr[0])
    # The block is lifted to the finger tips.
    world.data.qpos[address : address + 3] = world.grip_point()
    world.step(world.positions(), 0.02)
    (touch,) = world.touches
    assert touch.colour == COLOURS[index]
    assert touch.by_gripper
    assert touch.part in ("jaw", "fixed_finger")
    assert touch.time == pytest.approx(0.004)
    world.reset()
    assert world.touches == ()


def test_contact_with_the_arm_is_not_the_gripper() -> None:
    world = World(11)
    address = int(world.model.joint("red_block").qposadr[0])
    world.data.qpos[address : address + 3] = world.data.geom("lower_arm").xpos
    world.step(world.positions(), 0.004)
    (touch,) = world.touches
    assert touch.part in ("lower_arm", "wrist_servo", "elbow_servo")
    assert not touch.by_gripper


@pytest.mark.parametrize(
    "targets", [np.zeros(5), np.zeros((6, 1)), [0, 0, 0, 0, 0, np.nan], [np.inf, 0, 0, 0, 0, 0]]
)
def test_bad_targets_are_refused_and_nothing_moves(targets: object) -> None:
    world = World(0)
    before = world.data.qpos.copy()
    with pytest.raises(InputError, match="six finite"):
        world.step(targets, 0.1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(world.data.qpos, before)


def test_unknown_camera() -> None:
    world = World(0)
    with pytest.raises(InputError, match="front, wrist"):
        world.render("top")
    with pytest.raises(InputError, match="front, wrist"):
        world.image_points("top")


def test_servo_gains_let_go_and_hold_again() -> None:
    world = World(0)
    start = world.positions()
    world.set_servo_gains(0.0, 0.0)
    world.step(start, 0.5)
    fallen = world.positions()
    assert np.abs(fallen - start).max() > 5.0
    world.set_servo_gains(0.0, 1.0)
    world.reset(np.random.default_rng(0))
    world.step(world.positions(), 0.5)
    np.testing.assert_allclose(world.positions(), world.scene.start, atol=0.5)


def test_braked_arm_sinks_slower_than_a_free_one() -> None:
    travelled = {}
    for damping in (0.0, 1.0):
        world = World(0)
        start = world.positions()
        world.set_servo_gains(0.0, damping)
        world.step(start, 0.3)
        travelled[damping] = np.abs(world.positions() - start).max()
    assert travelled[1.0] < 0.6 * travelled[0.0]


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setattr("builtins.__import__", _import_without("mujoco", absent))
    with pytest.raises(MissingExtraError, match=r"pip install molmoact2-edge\[sim\]"):
        rendering.import_mujoco()


def _import_without(name: str, absent: object):  # type: ignore[no-untyped-def]
    real = __import__

    def fake(module: str, *args: object, **kwargs: object) -> object:
        if module == name:
            absent()  # type: ignore[operator]
        return real(module, *args, **kwargs)  # type: ignore[arg-type]

    return fake


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=False
    )


def test_importing_the_package_does_not_import_mujoco() -> None:
    code = "import sys, molmoact2_edge.sim; assert 'mujoco' not in sys.modules"
    result = _python(code)
    assert result.returncode == 0, result.stderr


def test_egl_is_chosen_without_a_display_and_a_choice_is_kept() -> None:
    code = (
        "import os\nfrom molmoact2_edge.sim.rendering import import_mujoco\n"
        "import_mujoco()\nprint(os.environ['MUJOCO_GL'])"
    )
    assert _python(code).stdout.strip() == "egl"
    assert _python(code, MUJOCO_GL="disabled").stdout.strip() == "disabled"


def test_no_gl_names_the_package_to_install() -> None:
    code = (
        "from molmoact2_edge.sim import World\n"
        "from molmoact2_edge.errors import RobotError\n"
        "world = World(0)\n"
        "world.step(world.positions())\n"
        "try:\n    world.render('front')\n"
        "except RobotError as error:\n    print(error)\n"
    )
    result = _python(code, MUJOCO_GL="disabled")
    assert "apt-get install libegl1" in result.stdout, result.stdout + result.stderr


def test_parameters_change_the_scene() -> None:
    world = World(0, parameters=SceneParameters(block_half_size=(0.02, 0.02), block_separation=0.07))
    np.testing.assert_allclose(world.block_half_sizes(), 0.02)
