"""A tiny run of every part: data that repeats itself, finite losses, going on bit by bit, an export that predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stages
import torch
from recipe import RECIPES
from release import NORM_TAG, norm_stats_json, write_settings
from snapshots import (
    FIELDS,
    GRID,
    IMAGE_SIDE,
    PATCH,
    SnapshotPlan,
    generate,
    is_complete,
    load,
    scene_snapshots,
    to_patches,
)
from trainee import PromptBuilder, Trainee

import train as training
from molmoact2_edge import Policy
from molmoact2_edge.sim import COLOURS, World, expert_chunk, instruction

TINY = RECIPES["tiny"]


@pytest.fixture(scope="module")
def data() -> Mapping[str, Any]:
    world = World(0, image_size=(IMAGE_SIDE, IMAGE_SIDE))
    rows = [
        {**one, "scene": np.array(scene)}
        for scene in range(TINY.data.scenes)
        for one in scene_snapshots(world, TINY.data, scene)
    ]
    world.close()
    return {name: np.stack([row[name] for row in rows]) for name in FIELDS}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, data: Mapping[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    write_settings(folder, TINY.shapes, norm_stats_json(data["state"], data["chunks"].reshape(-1, 6)))
    return folder


def new_run(settings: Path, data: Mapping[str, Any], folder: Path, stage: stages.Stage) -> stages.StageRun:
    trainee = Trainee(PromptBuilder(settings), seed=3)
    return stages.StageRun(trainee, stage, stages.Snapshots([data], [1.0]), folder)


def test_a_scene_number_always_gives_the_same_snapshots() -> None:
    worlds = [World(seed, image_size=(IMAGE_SIDE, IMAGE_SIDE)) for seed in (0, 99)]
    plan = SnapshotPlan(scenes=2, per_scene=2)
    list(scene_snapshots(worlds[1], plan, 1))  # what a world drew before must not matter
    for first, second in zip(
        scene_snapshots(worlds[0], plan, 0), scene_snapshots(worlds[1], plan, 0), strict=True
    ):
        assert first.keys() | {"scene"} == FIELDS.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name], err_msg=name)
    other = next(scene_snapshots(worlds[0], plan, 1))
    assert not np.array_equal(other["places"], first["places"])
    for world in worlds:
        world.close()


def test_labels_are_the_experts_and_pixels_show_the_block(data: Mapping[str, Any]) -> None:
    world = World(0, image_size=(IMAGE_SIDE, IMAGE_SIDE))
    snapshot = next(scene_snapshots(world, TINY.data, 0))
    for index, colour in enumerate(COLOURS):
        expected = expert_chunk(world, colour, snapshot["chunks"].shape[1], 10.0)
        np.testing.assert_allclose(snapshot["chunks"][index], expected, rtol=0, atol=1e-4)
    world.close()
    # The front camera's picture, put together again from its patches, has the named colour where the label says.
    images = data["patches"][:, 0].reshape(-1, GRID, GRID, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    images = images.reshape(-1, IMAGE_SIDE, IMAGE_SIDE, 3)
    checked = 0
    for row in range(len(images)):
        for index in range(len(COLOURS)):
            if data["visible"][row, 0, index] == 1.0:
                x, y = data["pixels"][row, 0, index].astype(int)
                assert images[row, y, x].argmax() == index
                checked += 1
    assert checked > len(images)


def test_processes_make_the_snapshots_of_a_plan(tmp_path: Path, data: Mapping[str, Any]) -> None:
    generate(tmp_path, TINY.data, workers=2, progress=lambda done: None)
    assert is_complete(tmp_path, TINY.data)
    assert not is_complete(tmp_path, dataclasses.replace(TINY.data, seed=5))
    made = load(tmp_path)
    for name in FIELDS:
        np.testing.assert_array_equal(made[name], data[name], err_msg=name)


@pytest.mark.parametrize("stage", TINY.stages[:2], ids=lambda stage: stage.name)
def test_going_on_repeats_an_uninterrupted_run(
    stage: stages.Stage, settings: Path, data: Mapping[str, Any], tmp_path: Path
) -> None:
    whole = new_run(settings, data, tmp_path / "whole", stage)
    losses: list[float] = []
    whole.run(lambda step, values: losses.extend(values.values()))
    assert np.isfinite(losses).all()

    stopped = new_run(settings, data, tmp_path / "parts", stage)
    stopped.run(lambda step, values: None, stop=lambda: stopped.step == 2)
    again = new_run(settings, data, tmp_path / "parts", stage)
    assert again.resume()
    assert again.step == 2
    again.run(lambda step, values: None)
    for name, tensor in whole.trainee.tensors().items():
        assert torch.equal(tensor, again.trainee.tensors()[name]), name
    for name, tensor in whole.averaged().items():
        assert torch.equal(tensor, again.averaged()[name]), name
    other = dataclasses.replace(stage, learning_rate=0.5)
    assert not new_run(settings, data, tmp_path / "whole", other).resume()


def test_training_reduces_the_loss_of_a_batch(
    settings: Path, data: Mapping[str, Any], tmp_path: Path
) -> None:
    stage = stages.Stage("flow", steps=30, batch=8, learning_rate=3e-3, flow_times=2, warm_up=2)
    run = new_run(settings, {name: values[:8] for name, values in data.items()}, tmp_path, stage)
    flow: list[float] = []
    run.run(lambda step, values: flow.append(values["flow"]))
    assert np.mean(flow[-5:]) < 0.7 * np.mean(flow[:5])


def test_exported_checkpoint_predicts_what_training_computed(
    settings: Path, data: Mapping[str, Any], tmp_path: Path
) -> None:
    trainee = Trainee(PromptBuilder(settings), seed=4)
    training.export(trainee, settings, tmp_path)
    policy = Policy.from_pretrained(tmp_path, device="cpu", dtype="float32")
    world = World(0, image_size=(IMAGE_SIDE, IMAGE_SIDE))
    world.reset(np.random.default_rng(5))
    images = [world.render("front"), world.render("wrist")]
    state = world.positions().astype(np.float32)
    noise = torch.randn(1, trainee.config.max_action_horizon, 6, generator=torch.Generator().manual_seed(6))
    steps = trainee.config.flow_matching_num_steps
    prediction = policy.predict(images, instruction("green"), state, NORM_TAG, noise=noise[0].numpy())
    world.close()

    patches = torch.from_numpy(np.stack([to_patches(image) for image in images]))[None].float() / 255 * 2 - 1
    suffix = torch.from_numpy(trainee.prompts.suffixes(state[None])[:, COLOURS.index("green")])
    chunk = trainee.act(patches, suffix, noise, steps)[0].numpy()
    expected = trainee.prompts.processor.unnormalize_actions(chunk, NORM_TAG)
    assert prediction.valid
    # Matrices are stored in float16: rounding of 5e-4, here in degrees over ranges of about 100.
    np.testing.assert_allclose(prediction.actions, expected, rtol=0, atol=0.3)


def test_one_command_runs_all_parts_and_goes_on(tmp_path: Path) -> None:
    first = training.train(TINY, tmp_path / "work", tmp_path / "out", workers=2, test_episodes=1)
    assert first["episodes"] == 1
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    again = training.train(TINY, tmp_path / "work", tmp_path / "out", workers=2, test_episodes=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    assert again["successes"] == first["successes"]
