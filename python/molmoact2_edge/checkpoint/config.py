"""The configuration of a MolmoAct2 checkpoint: `config.json` as checked, frozen dataclasses.

Field names are the file's own keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from molmoact2_edge.checkpoint.json_section import Section
from molmoact2_edge.checkpoint.network_config import ActionExpertConfig, AdapterConfig, TextConfig, VitConfig
from molmoact2_edge.errors import CheckpointError

__all__ = ["ActionExpertConfig", "AdapterConfig", "ModelConfig", "TextConfig", "VitConfig"]

_TOKEN_IDS = (
    "action_output_token_id",
    "action_start_token_id",
    "action_end_token_id",
    "action_token_start_id",
    "state_start_token_id",
    "state_end_token_id",
    "state_token_start_id",
    "depth_output_token_id",
    "depth_start_token_id",
    "depth_end_token_id",
    "depth_token_start_id",
    "image_patch_id",
    "image_col_id",
    "image_low_res_id",
    "image_high_res_id",
    "image_start_token_id",
    "image_end_token_id",
    "low_res_image_start_token_id",
    "frame_start_token_id",
    "frame_end_token_id",
    "bos_token_id",
)

# Without these a prompt cannot be built or its cache not masked. A release may leave out the others.
_REQUIRED_TOKEN_IDS = ("image_patch_id", "image_start_token_id", "image_end_token_id", "eos_token_id")
_DISCRETE_TOKEN_IDS = ("action_start_token_id", "action_end_token_id", "action_token_start_id")
_DEPTH_TOKEN_IDS = (
    "depth_output_token_id",
    "depth_start_token_id",
    "depth_end_token_id",
    "depth_token_start_id",
)


@dataclass(frozen=True)
class ModelConfig:
    """A whole checkpoint's configuration. Token ids are None where the file names none."""

    vit_config: VitConfig
    adapter_config: AdapterConfig
    text_config: TextConfig
    action_expert_config: ActionExpertConfig

    action_output_token_id: int | None
    action_start_token_id: int | None
    action_end_token_id: int | None
    action_token_start_id: int | None
    state_start_token_id: int | None
    state_end_token_id: int | None
    state_token_start_id: int | None
    depth_output_token_id: int | None
    depth_start_token_id: int | None
    depth_end_token_id: int | None
    depth_token_start_id: int | None
    image_patch_id: int | None
    image_col_id: int | None
    image_low_res_id: int | None
    image_high_res_id: int | None
    image_start_token_id: int | None
    image_end_token_id: int | None
    low_res_image_start_token_id: int | None
    frame_start_token_id: int | None
    frame_end_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None

    action_mode: str
    state_format: str
    max_action_dim: int
    max_action_horizon: int
    n_obs_steps: int
    flow_matching_num_steps: int
    flow_matching_beta_alpha: float
    flow_matching_beta_beta: float
    flow_matching_cutoff: float
    flow_matching_time_offset: float
    flow_matching_time_scale: float
    mask_action_dim_padding: bool

    enable_depth_reasoning: bool
    num_depth_codes: int
    num_depth_tokens: int
    action_expert_depth_gate: bool
    action_expert_depth_gate_per_layer: bool

    num_action_tokens: int
    num_state_tokens: int
    add_action_expert: bool
    add_setup_tokens: bool
    add_control_tokens: bool
    norm_stats_filename: str

    @classmethod
    def from_json(cls, values: object, generation: object = None) -> ModelConfig:
        """Checks a parsed `config.json`.

        Token ids may be missing, as in a file that only describes shapes; `require_token_ids` says which are.

        Args:
            values: The parsed `config.json`.
            generation: The parsed `generation_config.json`, if there is one: it may hold the end token.

        Raises:
            CheckpointError: A key is missing, has a wrong type or unsupported value, or contradicts another.
        """
        section = Section(values, "config.json")
        text = TextConfig.from_json(section.section("text_config"))
        config = cls(
            vit_config=VitConfig.from_json(section.section("vit_config")),
            adapter_config=AdapterConfig.from_json(section.section("adapter_config")),
            text_config=text,
            action_expert_config=ActionExpertConfig.from_json(section.section("action_expert_config")),
            **{key: section.token_id(key) for key in _TOKEN_IDS},
            eos_token_id=_eos_token_id(section, generation),
            action_mode=section.choice("action_mode", ("both", "continuous", "discrete"), "both"),
            state_format=section.choice("state_format", ("discrete",), "discrete"),
            max_action_dim=section.integer("max_action_dim"),
            max_action_horizon=section.integer("max_action_horizon"),
            n_obs_steps=section.integer("n_obs_steps", 1),
            flow_matching_num_steps=section.integer("flow_matching_num_steps", 10),
            flow_matching_beta_alpha=section.number("flow_matching_beta_alpha", 1.0),
            flow_matching_beta_beta=section.number("flow_matching_beta_beta", 1.5),
            flow_matching_cutoff=section.number("flow_matching_cutoff", 1.0),
            flow_matching_time_offset=section.number("flow_matching_time_offset", 0.001, positive=False),
            flow_matching_time_scale=section.number("flow_matching_time_scale", 0.999),
            mask_action_dim_padding=section.boolean("mask_action_dim_padding", True),
            enable_depth_reasoning=section.boolean("enable_depth_reasoning", False),
            num_depth_codes=section.integer("num_depth_codes", 100),
            num_depth_tokens=section.integer("num_depth_tokens", 0, minimum=0),
            action_expert_depth_gate=section.boolean("action_expert_depth_gate", False),
            action_expert_depth_gate_per_layer=section.boolean("action_expert_depth_gate_per_layer", False),
            num_action_tokens=section.integer("num_action_tokens", 0, minimum=0),
            num_state_tokens=section.integer("num_state_tokens", 256, minimum=2),
            add_action_expert=section.boolean("add_action_expert", True),
            add_setup_tokens=section.boolean("add_setup_tokens", False),
            add_control_tokens=section.boolean("add_control_tokens", False),
            norm_stats_filename=str(section.get("norm_stats_filename", "norm_stats.json")),
        )
        config._check_consistency(section)
        return config

    def _check_consistency(self, section: Section) -> None:
        vit, adapter, text = self.vit_config, self.adapter_config, self.text_config
        if adapter.text_hidden_size != text.hidden_size:
            section.section("adapter_config").refuse(
                "text_hidden_size", f"text_config.hidden_size = {text.hidden_size}"
            )
        if not all(0 <= layer < vit.num_hidden_layers for layer in vit.feature_layers(adapter)):
            section.section("adapter_config").refuse(
                "vit_layers",
                f"layers of a tower of {vit.num_hidden_layers}, negative ones counted from its end",
            )
        if self.add_action_expert and self.action_expert_config.num_layers != text.num_hidden_layers:
            section.section("action_expert_config").refuse(
                "num_layers",
                f"text_config.num_hidden_layers = {text.num_hidden_layers}: one block per decoder layer",
            )
        if self.enable_depth_reasoning:
            if self.num_depth_tokens < 1:
                section.refuse("num_depth_tokens", "at least 1 where enable_depth_reasoning is true")
            if math.isqrt(self.num_depth_codes) ** 2 != self.num_depth_codes:
                section.refuse("num_depth_codes", "a square number: the cells of a square grid")
        for key in (*_TOKEN_IDS, "eos_token_id"):
            first = getattr(self, key)
            span = 1
            if key == "action_token_start_id":
                span = self.num_action_tokens
            elif key == "state_token_start_id":
                span = self.num_state_tokens
            elif key == "depth_token_start_id":
                span = self.num_depth_tokens
            if first is not None and first + max(span, 1) > text.embedding_rows:
                section.refuse(
                    key, f"such that its {max(span, 1)} id(s) fit the {text.embedding_rows} embedding rows"
                )

    @property
    def image_token_ids(self) -> frozenset[int]:
        """The ids that `token_type_ids` marks: every part of an image in the prompt."""
        ids = (
            self.image_patch_id,
            self.image_col_id,
            self.image_low_res_id,
            self.image_high_res_id,
            self.image_start_token_id,
            self.image_end_token_id,
            self.low_res_image_start_token_id,
            self.frame_start_token_id,
            self.frame_end_token_id,
        )
        return frozenset(one for one in ids if one is not None)

    def require_token_ids(self) -> None:
        """Refuses a configuration that lacks a token id which prediction needs.

        Raises:
            CheckpointError: Naming every id that is missing.
        """
        needed: tuple[str, ...] = _REQUIRED_TOKEN_IDS
        if self.action_mode != "continuous":
            needed += _DISCRETE_TOKEN_IDS
        if self.enable_depth_reasoning:
            needed += _DEPTH_TOKEN_IDS
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise CheckpointError(
                f"config.json: expected the token ids {', '.join(needed)}; missing: {', '.join(missing)}. "
                "The file describes shapes only, or comes from another model."
            )


def _eos_token_id(section: Section, generation: object) -> int | None:
    """The end token: `config.json` first, then `generation_config.json`; of a list the first counts."""
    sources = [section] if generation is None else [section, Section(generation, "generation_config.json")]
    for source in sources:
        value = source.get("eos_token_id")
        if value is None:
            continue
        if isinstance(value, list):
            return source.integers("eos_token_id")[0]
        return source.token_id("eos_token_id")
    return None
