"""The benchmark's own parts: they decide what is compared and whether it may be timed. The peer is not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import DisagreementError, exact, relative_error, within
from lerobot_model import find_folder, folder_digest, lerobot_version
from paired_calls import (
    DepthCaches,
    Observation,
    Pair,
    alternate,
    compare_calls,
    compare_processors,
    median_stages,
    network_inputs,
)
from peer_lerobot import observations, parse
from random_network import (
    PreparedProcessor,
    RandomWeights,
    complete_config,
    norm_stats,
    processor_config,
    random_observation,
    with_changed_cells,
)

from molmoact2_edge import Policy
from molmoact2_edge.checkpoint import ModelConfig, NormStats
from molmoact2_edge.depth import depth_update_mask
from molmoact2_edge.model.layout import checkpoint_tensors, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2

CPU = torch.device("cpu")


# Arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["--layers", "2"],
        ["--num-steps", "4"],
        ["--think"],
        ["--shapes", "a.json", "--changed", "3"],
        ["--shapes", "a.json", "--case", "frame_0"],
        ["--shapes", "a.json", "--checkpoint", "b"],
        ["--repeat", "0"],
        ["--warm-up", "-1"],
    ],
)
def test_arguments_that_would_be_ignored_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse(argv)
    assert error.value.code == 2


def test_shapes_take_a_number_of_changed_cells() -> None:
    arguments = parse(["--shapes", "a.json", "--think", "--changed", "0"])
    assert arguments.changed == 0


def test_numbered_frames_of_a_think_checkpoint_follow_one_another(reference: Path) -> None:
    frames = observations(reference / "tiny-think", think=True)
    assert frames["frame_0"].previous is None
    assert frames["frame_2"].previous is frames["frame_1"]
    assert all(call.previous is None for call in observations(reference / "tiny-base", think=False).values())


# The peer's folder ------------------------------------------------------------------------------------------------


def test_the_folder_is_found_below_what_setup_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "lerobot" / "policies" / "molmoact2" / "molmoact2_hf_model"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="setup_peer"):
        find_folder(tmp_path)
    (folder / "modeling_molmoact2.py").write_text("x = 1\n")
    assert find_folder(tmp_path) == folder
    assert find_folder(folder) == folder
    before = folder_digest(folder)
    (folder / "modeling_molmoact2.py").write_text("x = 2\n")
    assert folder_digest(folder) != before


def test_the_version_is_read_from_the_unpacked_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "lerobot" / "policies" / "molmoact2" / "molmoact2_hf_model"
    metadata = tmp_path / "lerobot-0.6.1.dist-info"
    metadata.mkdir()
    assert lerobot_version(folder) is None
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot\nVersion: 0.6.1\n")
    assert lerobot_version(folder) == "0.6.1"


# Agreement --------------------------------------------------------------------------------------------------------


def test_equal_integers_agree_and_the_first_difference_is_named() -> None:
    ids = np.arange(12).reshape(3, 4)
    assert exact("ids", ids, ids.copy()) == []
    other = ids.copy()
    other[1, 2] += 1
    assert exact("ids", ids, other) == ["ids: 1 of 12 differ, first at (1, 2): 6 here, 7 there"]
    assert "shape" in exact("ids", ids, ids[:2])[0]
    assert exact("codes", None, None) == []
    assert exact("codes", None, ids) == ["codes: only one side has it"]


def test_a_perturbed_tensor_disagrees() -> None:
    chunk = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    scale = np.ptp(chunk, axis=0)
    perturbed = chunk.copy()
    perturbed[3, 4] += 2e-3 * scale[4]
    assert within("actions", chunk, chunk.copy(), scale, 1e-3) == []
    assert within("actions", perturbed, chunk, scale, 1e-3) != []
    assert relative_error(perturbed, chunk, scale) == pytest.approx(2e-3, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_agrees(bad: float) -> None:
    chunk = np.zeros((2, 3), dtype=np.float32)
    broken = chunk.copy()
    broken[0, 0] = bad
    assert within("actions", broken, chunk, 1.0, 1e9) != []
    assert within("actions", broken, broken.copy(), 1.0, 1e9) != []


# Random networks --------------------------------------------------------------------------------------------------


def test_weights_depend_on_name_shape_and_seed_only() -> None:
    make, again, other = (RandomWeights(seed, CPU) for seed in (1, 1, 2))
    name, shape = "model.transformer.blocks.0.mlp.ff_out.weight", (6, 5)
    assert torch.equal(make(name, shape), again(name, shape))
    assert not torch.equal(make(name, shape), other(name, shape))
    assert not torch.equal(make(name, shape), make(name.replace("0", "1"), shape))


def test_a_network_of_packed_parameters_holds_the_weights_of_their_names(reference: Path) -> None:
    config = ModelConfig.from_json(json.loads((reference / "tiny-think" / "config.json").read_text()))
    weights = RandomWeights.of(config, seed=3, device=CPU)
    source = random_source(
        lambda part, rows: rows.copy_(weights(part.name, part.shape)), dtype=torch.float32, device=CPU
    )
    MolmoAct2(source, config, CPU)
    tensors = checkpoint_tensors(source.parameters)
    assert "lm_head.weight" in tensors
    for name, tensor in tensors.items():
        assert torch.equal(tensor, weights(name, tuple(tensor.shape))), name


def test_a_file_of_shapes_gets_every_token_id_once(reference: Path) -> None:
    values = json.loads((reference / "shapes" / "molmoact2-so101.json").read_text())
    completed = complete_config(values, layers=2, think=True)
    config = ModelConfig.from_json(completed)
    config.require_token_ids()
    assert config.text_config.num_hidden_layers == config.action_expert_config.num_layers == 2
    assert config.vit_config.num_hidden_layers == 9
    assert config.action_expert_depth_gate_per_layer
    assert config.depth_token_start_id is not None
    assert config.depth_token_start_id + config.num_depth_tokens == config.text_config.vocab_size
    assert config.image_patch_id == config.text_config.vocab_size
    ids = [v for k, v in completed.items() if k.endswith("_token_id") and k != "bos_token_id"]
    assert len(set(ids)) == len(ids)
    assert "eos_token_id" not in values


def test_ids_that_a_config_names_stay(reference: Path) -> None:
    values = json.loads((reference / "tiny-think" / "config.json").read_text())
    assert complete_config(values, think=True) == values


@pytest.mark.parametrize("changed", [0, 1, 10, 25, 100])
def test_exactly_so_many_depth_cells_change(changed: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    before, after = with_changed_cells(frame, changed, 100, seed=5)
    assert int(depth_update_mask(after, before, cells=100).sum()) == changed


# Pairs: two copies of our own network stand in for the peer ---------------------------------------------------------


class OurPeer:
    """Our own network behind the peer's interface."""

    def __init__(self, policy: Policy, shift: float = 0.0) -> None:
        self.policy = policy
        self.shift = shift
        self.device = CPU
        self.dtype = torch.float32

    def noise(self, horizon: int, seed: int) -> np.ndarray[Any, Any]:
        shape = (horizon, self.policy.config.max_action_dim)
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def predict(self, processor: Any, *call: Any, seed: int, cuda_graph: bool, **options: Any) -> Any:
        tag = call[3]
        noise = self.noise(self.policy.processor.embodiment(tag).action_horizon, seed)
        prediction = self.policy.predict(*call, noise=noise, **options)
        prediction.actions[0, 0] += self.shift
        return prediction


@pytest.fixture(scope="module")
def random_policy(reference: Path) -> Policy:
    values = json.loads((reference / "tiny-think" / "config.json").read_text())
    config = ModelConfig.from_json(complete_config(values, think=True))
    weights = RandomWeights.of(config, seed=0, device=CPU)
    source = random_source(
        lambda part, rows: rows.copy_(weights(part.name, part.shape)), dtype=torch.float32, device=CPU
    )
    prepared = random_observation(config, cameras=2, text_tokens=20, think=True, seed=0)
    stats = NormStats.from_json(norm_stats(6, 6, 12), default_horizon=12)

    return Policy(
        MolmoAct2(source, config, CPU), PreparedProcessor(config, processor_config(config), stats, prepared)
    )


def pair_of(policy: Policy, shift: float) -> tuple[Pair, Observation]:
    frame = np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    before, after = with_changed_cells(frame, 5, 100, seed=1)
    state = np.zeros(6, dtype=np.float32)
    first = Observation("before", [before], "", state, "random", 2, think=True)
    call = Observation("after", [after], "", state, "random", 2, think=True, previous=first)
    peer: Any = OurPeer(policy, shift)
    return Pair("pair", policy, peer, lambda **_: {}, seed=0), call


def test_the_depth_map_of_random_weights_ends_and_continues(random_policy: Policy) -> None:
    pair, call = pair_of(random_policy, shift=0.0)
    caches, report = compare_calls(pair, call, cuda_graph=False, tolerance=1e-3)
    assert report["decoded_cells"] == 5
    assert report["actions_largest_difference_of_range"] == 0
    assert isinstance(caches, DepthCaches)
    assert caches.ours is not None


def test_sides_that_differ_are_not_timed(random_policy: Policy) -> None:
    pair, call = pair_of(random_policy, shift=1.0)
    with pytest.raises(DisagreementError, match="actions: largest difference"):
        compare_calls(pair, call, cuda_graph=False, tolerance=1e-3)


def test_processors_that_differ_are_named(reference: Path) -> None:
    policy = Policy.from_pretrained(reference / "tiny-base", device="cpu", dtype="float32")
    call = observations(reference / "tiny-base", think=False)["one_camera"]

    def same(*, text: str, images: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        assert return_tensors == "pt"
        inputs = policy.processor.images(images)
        prompt = policy.processor.prompt(
            inputs, task=call.task, state=call.state, norm_tag=call.norm_tag, depth=False
        )
        assert prompt.text == text
        return network_inputs(inputs, prompt)

    def other(**arguments: Any) -> dict[str, torch.Tensor]:
        inputs = same(**arguments)
        inputs["input_ids"] = inputs["input_ids"] + 1
        return inputs

    peer: Any = OurPeer(policy)
    assert compare_processors(Pair("p", policy, peer, same, 0), call).frames is call.images
    with pytest.raises(DisagreementError, match="input_ids"):
        compare_processors(Pair("p", policy, peer, other, 0), call)


# Timing -----------------------------------------------------------------------------------------------------------


def test_sides_take_turns_in_rotating_order() -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = alternate(sides, 3, lambda: None)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_stage_that_did_not_run_counts_as_zero() -> None:
    assert median_stages([{"a": 1e-3}, {"a": 3e-3, "b": 1e-3}, {"a": 2e-3}]) == pytest.approx(
        {"a": 2, "b": 0}
    )
