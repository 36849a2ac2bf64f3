"""Opening whole checkpoints: layouts, missing files, the Hub, and what must never be touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molmoact2_edge.checkpoint import Checkpoint
from molmoact2_edge.errors import CheckpointError, InputError

Edit = Callable[[Path, Callable[[Any], None]], None]
STEP = "_step_2_molmoact2_masked"


def test_opens_every_reference_checkpoint(reference: Path) -> None:
    paths = sorted(reference.glob("tiny-*"))
    assert len(paths) >= 3
    for path in paths:
        checkpoint = Checkpoint.open(path)
        assert checkpoint.path == path
        assert checkpoint.tokenizer_path == path / "tokenizer.json"
        assert checkpoint.action_tokenizer_path is None
        assert "lm_head.weight" in checkpoint.weights


@pytest.mark.parametrize(
    "name", ["config.json", "norm_stats.json", "processor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_missing_file_is_named(name: str, base: Path) -> None:
    (base / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.open(base)


@pytest.mark.parametrize(
    "name", ["config.json", "norm_stats.json", "processor_config.json", "model.safetensors"]
)
@pytest.mark.parametrize("keep", [0, 7, 100])
def test_truncated_file_is_named(name: str, keep: int, base: Path) -> None:
    (base / name).write_bytes((base / name).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.open(base)


def test_checkpoint_without_token_ids(base: Path, edit: Edit) -> None:
    edit(base / "config.json", lambda values: values.pop("image_patch_id"))
    with pytest.raises(CheckpointError, match="image_patch_id"):
        Checkpoint.open(base)


def test_end_token_from_generation_config(base: Path, edit: Edit) -> None:
    edit(base / "config.json", lambda values: values.pop("eos_token_id"))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        Checkpoint.open(base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [401, 0]}))
    assert Checkpoint.open(base).config.eos_token_id == 401


def test_older_image_settings(base: Path) -> None:
    newer = Checkpoint.open(base).processor_config
    values = json.loads((base / "processor_config.json").read_text())
    (base / "preprocessor_config.json").write_text(json.dumps(values.pop("image_processor")))
    (base / "processor_config.json").write_text(json.dumps(values))
    assert Checkpoint.open(base).processor_config == newer


PROCESSOR_REFUSED = {
    "crop_mode": "letterbox",
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.2, 0.2, 0.2],
    "pooling_size": [0, 2],
    "overlap_margins": [-1, 0],
    "size": {"height": 71, "width": 70},
    "patch_size": 7,
}


@pytest.mark.parametrize("key", PROCESSOR_REFUSED)
def test_unsupported_image_settings(key: str, base: Path, edit: Edit) -> None:
    edit(
        base / "processor_config.json",
        lambda values: values["image_processor"].update({key: PROCESSOR_REFUSED[key]}),
    )
    with pytest.raises(CheckpointError, match="patches of 7" if key == "patch_size" else key):
        Checkpoint.open(base)


def test_margins_that_fill_a_crop(base: Path, edit: Edit) -> None:
    changes = {"crop_mode": "overlap-and-resize-c2", "overlap_margins": [3, 2]}
    edit(base / "processor_config.json", lambda values: values["image_processor"].update(changes))
    with pytest.raises(CheckpointError, match="overlap_margins"):
        Checkpoint.open(base)


@pytest.mark.parametrize(
    ("key", "value"), [("max_action_horizon", 11), ("max_action_dim", 7), ("n_obs_steps", 9)]
)
def test_embodiment_beyond_the_model(key: str, value: int, base: Path, edit: Edit) -> None:
    edit(base / "config.json", lambda values: values.update({key: value}))
    with pytest.raises(CheckpointError, match=key):
        Checkpoint.open(base)


@pytest.mark.parametrize("name", ["../norm_stats.json", "/etc/hostname", "sub/norm_stats.json"])
def test_statistics_file_outside_the_directory(name: str, base: Path, edit: Edit) -> None:
    edit(base / "config.json", lambda values: values.update(norm_stats_filename=name))
    with pytest.raises(CheckpointError, match="norm_stats_filename"):
        Checkpoint.open(base)


def test_statistics_under_another_name(base: Path, edit: Edit) -> None:
    (base / "norm_stats.json").rename(base / "my_stats.json")
    edit(base / "config.json", lambda values: values.update(norm_stats_filename="my_stats.json"))
    assert set(Checkpoint.open(base).norm_stats.tags) == {"so101_tiny", "droid_tiny"}


def test_action_tokenizer_is_found(base: Path, reference: Path) -> None:
    shutil.copytree(reference / "openfast-tiny", base / "fast")
    assert Checkpoint.open(base).action_tokenizer_path == base / "fast"
    shutil.copytree(reference / "openfast-tiny", base / "fast_2")
    assert Checkpoint.open(base).action_tokenizer_path is None, "two would be a guess"
    shutil.copytree(reference / "openfast-tiny", base / "action_tokenizer")
    assert Checkpoint.open(base).action_tokenizer_path == base / "action_tokenizer"


def test_code_in_a_checkpoint_is_never_run(base: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name in ("configuration_molmoact2.py", "processing_molmoact2.py", "__init__.py"):
        (base / name).write_text(f"open({str(marker)!r}, 'w')")
    Checkpoint.open(base)
    assert not marker.exists()


# The Hub ---------------------------------------------------------------------------------------------------------


def test_neither_directory_nor_id(tmp_path: Path) -> None:
    for path in (tmp_path / "none", "./none", "a/b/c"):
        with pytest.raises(CheckpointError, match="no such directory"):
            Checkpoint.open(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="this is a file"):
        Checkpoint.open(tmp_path / "file")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, reference: Path) -> list[dict[str, Any]]:
    """Records calls of the Hub's client, which answers with `tiny-base`."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        return str(reference / "tiny-base")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return calls


def test_hub_id_fetches_data_files_only(hub: list[dict[str, Any]]) -> None:
    Checkpoint.open("owner/name", revision="v1")
    (call,) = hub
    assert call == {
        "repo_id": "owner/name",
        "revision": "v1",
        "allow_patterns": ["*.json", "*.safetensors"],
        "local_files_only": False,
    }


def test_offline_by_argument_or_environment(
    hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint.open("owner/name", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Checkpoint.open("owner/name")
    assert [call["local_files_only"] for call in hub] == [True, True]


def test_local_directory_never_starts_the_client(hub: list[dict[str, Any]], base: Path) -> None:
    Checkpoint.open(base)
    assert hub == []


def test_offline_touches_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="offline mode forbids"):
        Checkpoint.open("owner/never-downloaded", offline=True)


# LeRobot ---------------------------------------------------------------------------------------------------------


def save_as_lerobot(base: Path, policy_values: dict[str, Any], tag: str = "so101_tiny") -> None:
    """Rewrites a copy of a reference checkpoint in LeRobot's layout, with one embodiment's statistics."""
    embodiment = json.loads((base / "norm_stats.json").read_text())["metadata_by_tag"][tag]
    (base / "norm_stats.json").unlink()
    statistics = {
        f"{prefix}.{key}": torch.tensor(value)
        for prefix, kind in (("observation.state", "state_stats"), ("action", "action_stats"))
        for key, value in embodiment[kind].items()
        if key != "names"
    }
    for stem in ("policy_preprocessor", "policy_postprocessor"):
        save_file(statistics, base / f"{stem}{STEP}_normalizer.safetensors")
    weights = load_file(base / "model.safetensors")
    save_file(
        {f"model.{name}": tensor.clone() for name, tensor in weights.items()}, base / "model.safetensors"
    )
    (base / "config.json").write_text(json.dumps({"type": "molmoact2", **policy_values}))


def test_lerobot_layout_with_the_network_in_the_same_file(base: Path, reference: Path) -> None:
    values = json.loads((base / "config.json").read_text())
    policy = {"chunk_size": 12, "n_action_steps": 7, "setup_type": "my arm", "control_mode": "joints"}
    save_as_lerobot(base, {**values, **policy, "norm_tag": "mine"})
    checkpoint, original = Checkpoint.open(base), Checkpoint.open(reference / "tiny-base")
    arm, expected = checkpoint.norm_stats.embodiment(None), original.norm_stats.embodiment("so101_tiny")
    assert (arm.tag, arm.action_horizon, arm.n_action_steps) == ("mine", 12, 7)
    assert (arm.setup_type, arm.control_mode) == ("my arm", "joints")
    for read, known in ((arm.action_stats, expected.action_stats), (arm.state_stats, expected.state_stats)):
        assert read.mask.tolist() == known.mask.tolist()
        for key, value in known.values.items():
            np.testing.assert_array_equal(read.values[key], value)
    assert sorted(checkpoint.weights.names()) == sorted(original.weights.names())
    with pytest.raises(InputError, match="mine"):
        checkpoint.norm_stats.embodiment("so101_tiny")


def test_lerobot_layout_over_a_base_checkpoint(base: Path, reference: Path) -> None:
    policy: dict[str, Any] = {
        "checkpoint_path": str(reference / "tiny-base"), "chunk_size": 10, "n_action_steps": 10,
        "num_state_tokens": 128, "add_setup_tokens": False, "num_inference_steps": 4, "setup_type": "",
        "joint_signs": [1, -1, 1, 1, 1, 1], "joint_offsets": [0, 90, 90, 0, 0, 0],
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    }  # fmt: skip
    save_as_lerobot(base, policy)
    steps = [
        {
            "registry_name": "molmoact2_pack_inputs",
            "config": {"setup_type": "packed arm", "control_mode": "x"},
        }
    ]
    (base / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    checkpoint = Checkpoint.open(base)
    assert checkpoint.tokenizer_path == reference / "tiny-base/tokenizer.json"
    assert checkpoint.config.num_state_tokens == 128
    assert not checkpoint.config.add_setup_tokens
    assert checkpoint.config.flow_matching_num_steps == 4
    assert checkpoint.norm_stats.norm_mode == "min_max"
    for tag in (None, "any name"):
        arm = checkpoint.norm_stats.embodiment(tag)
        assert (arm.setup_type, arm.control_mode, arm.action_horizon) == ("packed arm", "x", 10)
    assert arm.joint_signs == (1, -1, 1, 1, 1, 1)
    assert arm.joint_offsets == (0, 90, 90, 0, 0, 0)


def test_lerobot_without_base_statistics_or_one_mode(base: Path) -> None:
    values = json.loads((base / "config.json").read_text())
    save_as_lerobot(base, {})
    with pytest.raises(CheckpointError, match="checkpoint_path"):
        Checkpoint.open(base)
    mixed = {"STATE": "MIN_MAX", "ACTION": "QUANTILES"}
    (base / "config.json").write_text(
        json.dumps({"type": "molmoact2", **values, "normalization_mapping": mixed})
    )
    with pytest.raises(CheckpointError, match="ACTION"):
        Checkpoint.open(base)
    (base / "config.json").write_text(json.dumps({"type": "molmoact2", **values}))
    (base / f"policy_preprocessor{STEP}_normalizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="policy_preprocessor"):
        Checkpoint.open(base)


def test_unreadable_directory_entry(base: Path) -> None:
    (base / "config.json").unlink()
    os.mkdir(base / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint.open(base)
