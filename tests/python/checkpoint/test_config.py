"""`config.json`: what is read, what is refused, and that a refusal names the key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from molmoact2_edge.checkpoint import ActionExpertConfig, ModelConfig
from molmoact2_edge.errors import CheckpointError


@pytest.fixture
def values(reference: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((reference / "tiny-base/config.json").read_text())
    return loaded


def changed(values: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with one key, such as `text_config.head_dim`, set or (value `...`) removed."""
    result = copy.deepcopy(values)
    *sections, key = path.split(".")
    target = result
    for section in sections:
        target = target[section]
    if value is ...:
        target.pop(key, None)
    else:
        target[key] = value
    return result


def test_reads_every_reference_configuration(reference: Path) -> None:
    paths = sorted(reference.glob("tiny-*/config.json"))
    assert len(paths) >= 3
    for path in paths:
        config = ModelConfig.from_json(json.loads(path.read_text()))
        config.require_token_ids()
        assert config.eos_token_id == 401
        assert config.text_config.embedding_rows == 768 + 16
        assert config.action_expert_config.intermediate_size == 160
        assert config.vit_config.feature_layers(config.adapter_config) == (2, 0)
        assert config.vit_config.layers_needed(config.adapter_config) == 3
        assert config.image_token_ids == {768, 769, 770, 771, 772, 773, 774, 775}


def test_release_shapes_without_token_ids(reference: Path) -> None:
    config = ModelConfig.from_json(json.loads((reference / "shapes/molmoact2-so101.json").read_text()))
    assert config.vit_config.layers_needed(config.adapter_config) == 25
    assert config.vit_config.position_grid == (27, 27)
    assert config.action_expert_config.intermediate_size == 3072
    assert config.action_expert_config.head_dim == 96
    assert config.image_patch_id is None
    with pytest.raises(CheckpointError, match="image_patch_id"):
        config.require_token_ids()


@pytest.mark.parametrize(
    ("hidden_size", "ratio", "multiple", "expected"),
    [(40, 4.0, 16, 160), (40, 4.0, 64, 192), (48, 2.5, 32, 128), (768, 4.0, 256, 3072)],
)
def test_expert_width_is_rounded_up(hidden_size: int, ratio: float, multiple: int, expected: int) -> None:
    values = {"hidden_size": hidden_size, "mlp_ratio": ratio, "ffn_multiple_of": multiple}
    config = ActionExpertConfig.from_json(
        {**values, "num_layers": 1, "num_heads": 4, "timestep_embed_dim": 8}
    )
    assert config.intermediate_size == expected


def test_rope_base_from_either_place(values: dict[str, Any]) -> None:
    newer = changed(
        changed(values, "text_config.rope_theta", ...), "text_config.rope_parameters.rope_theta", 1e4
    )
    assert ModelConfig.from_json(newer).text_config.rope_theta == 1e4
    older = changed(changed(values, "text_config.rope_parameters", ...), "text_config.rope_theta", 2e4)
    assert ModelConfig.from_json(older).text_config.rope_theta == 2e4
    neither = changed(changed(values, "text_config.rope_parameters", ...), "text_config.rope_theta", ...)
    with pytest.raises(CheckpointError, match="rope_theta"):
        ModelConfig.from_json(neither)


@pytest.mark.parametrize(
    ("generation", "expected"), [({"eos_token_id": 7}, 7), ({"eos_token_id": [9, 7]}, 9)]
)
def test_end_token_from_generation_config(values: dict[str, Any], generation: object, expected: int) -> None:
    without = changed(values, "eos_token_id", ...)
    assert ModelConfig.from_json(without, generation).eos_token_id == expected
    assert ModelConfig.from_json(values, generation).eos_token_id == 401, "config.json comes first"


def test_end_token_as_a_list(values: dict[str, Any]) -> None:
    assert ModelConfig.from_json(changed(values, "eos_token_id", [401, 0])).eos_token_id == 401


def test_own_position_grid(values: dict[str, Any]) -> None:
    """Positions may be learned on another square than the input's; the model resizes them."""
    config = ModelConfig.from_json(changed(values, "vit_config.image_num_pos", 49))
    assert config.vit_config.position_grid == (7, 7)


REFUSED = {
    "text_config": [..., 3, []],
    "text_config.hidden_size": [..., 0, -1, 2.5, "64", True, 65],
    "text_config.head_dim": [23, 0],
    "text_config.num_key_value_heads": [3],
    "text_config.hidden_act": ["gelu", 1],
    "text_config.qk_norm_type": ["other"],
    "text_config.use_qk_norm": ["yes", 1],
    "text_config.layer_norm_eps": [10**400, 0, -1e-6, "1e-6", float("nan")],
    "text_config.rope_scaling": [{"rope_type": "yarn", "factor": 2.0}, {"type": "linear"}, 3],
    "text_config.rope_parameters": [{"rope_type": "llama3", "rope_theta": 1e4}],
    "text_config.rope_scaling_layers": [[0]],
    "text_config.tie_word_embeddings": [True],
    "vit_config.hidden_act": ["gelu"],
    "vit_config.image_default_input_size": [[70], [70, 71], [0, 70], "70"],
    "vit_config.image_num_pos": [24],
    "vit_config.num_key_value_heads": [2],
    "adapter_config.vit_layers": [[], [4], [-5], [0.5], "all"],
    "adapter_config.text_hidden_size": [63],
    "adapter_config.hidden_act": ["gelu"],
    "action_expert_config.num_layers": [3],
    "action_expert_config.num_heads": [3],
    "action_expert_config.timestep_embed_dim": [31],
    "action_expert_config.mlp_ratio": [0.0],
    "action_mode": ["flow"],
    "state_format": ["continuous"],
    "max_action_dim": [..., 0],
    "n_obs_steps": [0],
    "num_state_tokens": [1],
    "flow_matching_num_steps": [0],
    "image_patch_id": [-1, "768", 784],
    "action_token_start_id": [784 - 63],
    "eos_token_id": [-2, [], ["x"], "401"],
}


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, many in REFUSED.items() for value in many]
)
def test_refusal_names_the_key(values: dict[str, Any], path: str, value: object) -> None:
    # A width is refused at the key that must agree with it.
    key = "text_hidden_size" if (path, value) == ("text_config.hidden_size", 65) else path.split(".")[-1]
    with pytest.raises(CheckpointError, match=key):
        ModelConfig.from_json(changed(values, path, value))


def test_depth_reasoning_needs_codes_and_a_square(reference: Path) -> None:
    values = json.loads((reference / "tiny-think/config.json").read_text())
    for key, value in (("num_depth_tokens", 0), ("num_depth_codes", 99)):
        with pytest.raises(CheckpointError, match=key):
            ModelConfig.from_json(changed(values, key, value))
    with pytest.raises(CheckpointError, match="depth_start_token_id"):
        ModelConfig.from_json(changed(values, "depth_start_token_id", ...)).require_token_ids()


@pytest.mark.parametrize("values", [None, [], 3, "text"])
def test_not_an_object(values: object) -> None:
    with pytest.raises(CheckpointError, match="JSON object"):
        ModelConfig.from_json(values)
