"""Checkpoints that LeRobot saved: `config.json` says `"type": "molmoact2"`, statistics lie in the processors' files.

LeRobot's own `config.json` describes the policy, not the network. The network's configuration is taken from the same
file where it is there, else from the base checkpoint that `checkpoint_path` names, as are tokenizer and image settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from molmoact2_edge.checkpoint.json_section import Section, read_json
from molmoact2_edge.checkpoint.norm_stats import NORM_MODES, Embodiment, NormStats, Stats
from molmoact2_edge.checkpoint.safetensors_header import read_header
from molmoact2_edge.errors import CheckpointError

POLICY_TYPE = "molmoact2"
UNNAMED_TAG = "lerobot"

# What a fine-tuning run may have changed against its base; these keys mean the same in both files.
_OVERRIDES = (
    "add_control_tokens",
    "add_setup_tokens",
    "mask_action_dim_padding",
    "n_obs_steps",
    "num_state_tokens",
)

_NORM_MODES = {
    "QUANTILES": "q01_q99",
    "QUANTILE10": "q10_q90",
    "MIN_MAX": "min_max",
    "MEAN_STD": "mean_std",
    "IDENTITY": "none",
}
_STATE_PREFIX, _ACTION_PREFIX = "observation.state.", "action."


def is_lerobot_config(values: object) -> bool:
    return isinstance(values, Mapping) and values.get("type") == POLICY_TYPE


def holds_network_config(values: Mapping[str, Any]) -> bool:
    return all(key in values for key in ("vit_config", "adapter_config", "text_config"))


def network_config(policy_values: Mapping[str, Any], base_values: Mapping[str, Any]) -> dict[str, Any]:
    """The base checkpoint's configuration with what the policy's own `config.json` changes of it."""
    changed = {key: policy_values[key] for key in _OVERRIDES if policy_values.get(key) is not None}
    if policy_values.get("num_inference_steps") is not None:
        changed["flow_matching_num_steps"] = policy_values["num_inference_steps"]
    return {**base_values, **changed}


def read_norm_stats(directory: Path, policy_values: Mapping[str, Any], *, default_horizon: int) -> NormStats:
    """The one embodiment of a LeRobot checkpoint, from `policy_preprocessor*` and `policy_postprocessor*`.

    Raises:
        CheckpointError: The files are missing or damaged, or normalize states and actions in different modes.
    """
    policy = Section(policy_values, "config.json")
    norm_mode = _norm_mode(policy)
    wording = Section({**_pack_step_config(directory), **_without_nulls(policy_values)}, "config.json")
    arrays = {
        **_statistics(directory, "policy_postprocessor"),
        **_statistics(directory, "policy_preprocessor"),
    }
    tag = policy.get("norm_tag")
    horizon = wording.integer("action_horizon", wording.integer("chunk_size", default_horizon))
    embodiment = Embodiment(
        tag=str(tag or UNNAMED_TAG),
        action_horizon=horizon,
        n_action_steps=policy.integer("n_action_steps", horizon),
        setup_type=str(wording.get("setup_type", "")),
        control_mode=str(wording.get("control_mode", "")),
        action_stats=_stats(arrays, _ACTION_PREFIX, norm_mode),
        state_stats=_stats(arrays, _STATE_PREFIX, norm_mode),
        camera_keys=tuple(str(key) for key in wording.get("image_keys", [])),
        joint_signs=_joint_vector(policy, "joint_signs"),
        joint_offsets=_joint_vector(policy, "joint_offsets"),
    )
    return NormStats(norm_mode=norm_mode, tags={embodiment.tag: embodiment}, tags_are_named=bool(tag))


def _norm_mode(policy: Section) -> str:
    if policy.get("norm_mode") is not None:
        return policy.choice("norm_mode", tuple(NORM_MODES))
    if policy.get("normalization_mapping") is None:
        return "q01_q99"
    mapping = policy.section("normalization_mapping")
    modes = {mapping.choice(key, tuple(_NORM_MODES), "QUANTILES") for key in ("STATE", "ACTION")}
    if len(modes) != 1:
        mapping.refuse(
            "ACTION", f"the mode of STATE, {mapping.get('STATE')!r}; different modes are not supported"
        )
    return _NORM_MODES[modes.pop()]


def _pack_step_config(directory: Path) -> dict[str, Any]:
    """What the saved pipeline tells the step that builds prompts: wording and horizon of the embodiment."""
    path = directory / "policy_preprocessor.json"
    if not path.exists():
        return {}
    for step in Section(read_json(path), str(path)).get("steps", []):
        if isinstance(step, Mapping) and step.get("registry_name") == "molmoact2_pack_inputs":
            config = step.get("config")
            return _without_nulls(config) if isinstance(config, Mapping) else {}
    return {}


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    # LeRobot writes "" and [] for wording that was never set.
    return {key: value for key, value in values.items() if value not in (None, "", [])}


def _statistics(directory: Path, stem: str) -> dict[str, NDArray[Any]]:
    paths = sorted(directory.glob(f"{stem}*.safetensors"))
    if not paths:
        raise CheckpointError(
            f"{directory}: expected the statistics in {stem}*.safetensors, found no such file"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for path in paths:
        read_header(path)
        try:
            arrays.update(load_file(path))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path}: could not be read: {error}") from error
    return arrays


def _stats(arrays: Mapping[str, NDArray[Any]], prefix: str, norm_mode: str) -> Stats:
    values = {
        name.removeprefix(prefix): array.astype(bool).tolist() if name.endswith(".mask") else array.tolist()
        for name, array in arrays.items()
        if name.startswith(prefix) and np.ndim(array) == 1
    }
    return Stats.from_json(values, f"LeRobot statistics {prefix}*", norm_mode)


def _joint_vector(policy: Section, key: str) -> tuple[float, ...] | None:
    value = policy.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, int | float) for one in value):
        policy.refuse(key, "a list of numbers")
    return tuple(float(one) for one in value)
