"""The configuration of a MolmoAct2 checkpoint: `config.json` as checked, frozen dataclasses.

Field names are the file's own keys. A value that this runtime does not compute exactly is refused here, with
the values that it does: no checkpoint can load and then predict something else than its authors meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from molmoact2_edge.checkpoint.json_section import Section
from molmoact2_edge.errors import CheckpointError


@dataclass(frozen=True)
class VitConfig:
    """The vision tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    layer_norm_eps: float
    image_default_input_size: tuple[int, int]
    image_patch_size: int
    image_num_pos: int

    @classmethod
    def from_json(cls, values: object) -> VitConfig:
        section = values if isinstance(values, Section) else Section(values, "vit_config")
        heads = section.integer("num_attention_heads")
        height, width = section.integers("image_default_input_size", length=2)
        config = cls(
            hidden_size=section.integer("hidden_size"),
            intermediate_size=section.integer("intermediate_size"),
            num_hidden_layers=section.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=section.integer("num_key_value_heads", heads),
            head_dim=section.integer("head_dim"),
            hidden_act=section.choice("hidden_act", ("gelu_pytorch_tanh",)),
            layer_norm_eps=section.number("layer_norm_eps"),
            image_default_input_size=(height, width),
            image_patch_size=section.integer("image_patch_size"),
            image_num_pos=section.integer("image_num_pos"),
        )
        if config.num_key_value_heads != heads:
            section.refuse(
                "num_key_value_heads", f"num_attention_heads = {heads} (grouped heads are not supported here)"
            )
        patch = config.image_patch_size
        if min(height, width) < patch or height % patch or width % patch:
            section.refuse("image_default_input_size", f"multiples of image_patch_size = {patch}")
        if config.image_num_pos != (height // patch) * (width // patch):
            section.refuse(
                "image_num_pos", f"the {height // patch} x {width // patch} patches of the default input size"
            )
        return config

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch: side x side x RGB."""
        return self.image_patch_size**2 * 3

    @property
    def position_grid(self) -> tuple[int, int]:
        """Rows and columns of the learned positions."""
        height, width = self.image_default_input_size
        return height // self.image_patch_size, width // self.image_patch_size

    def feature_layers(self, adapter: AdapterConfig) -> tuple[int, ...]:
        """Indices (from 0) of the layers whose outputs the connector takes, in order of concatenation."""
        return tuple(layer + self.num_hidden_layers if layer < 0 else layer for layer in adapter.vit_layers)

    def layers_needed(self, adapter: AdapterConfig) -> int:
        """Layers up to the last one that the connector takes; checkpoints hold no later ones."""
        return max(self.feature_layers(adapter)) + 1


@dataclass(frozen=True)
class AdapterConfig:
    """The connector between vision tower and decoder: attention pooling, then a gated projection."""

    vit_layers: tuple[int, ...]
    pooling_attention_mask: bool
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    intermediate_size: int
    text_hidden_size: int

    @classmethod
    def from_json(cls, values: object) -> AdapterConfig:
        section = values if isinstance(values, Section) else Section(values, "adapter_config")
        heads = section.integer("num_attention_heads")
        config = cls(
            vit_layers=section.integers("vit_layers"),
            pooling_attention_mask=section.boolean("pooling_attention_mask", False),
            hidden_size=section.integer("hidden_size"),
            num_attention_heads=heads,
            num_key_value_heads=section.integer("num_key_value_heads", heads),
            head_dim=section.integer("head_dim"),
            hidden_act=section.choice("hidden_act", ("silu",)),
            intermediate_size=section.integer("intermediate_size"),
            text_hidden_size=section.integer("text_hidden_size"),
        )
        if config.num_key_value_heads != heads:
            section.refuse(
                "num_key_value_heads", f"num_attention_heads = {heads} (grouped heads are not supported here)"
            )
        return config


@dataclass(frozen=True)
class TextConfig:
    """The decoder. `rope_theta` is resolved from either of the places where checkpoints keep it."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    additional_vocab_size: int
    qkv_bias: bool
    num_hidden_layers: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    rope_theta: float
    use_qk_norm: bool
    qk_norm_type: str
    layer_norm_eps: float
    norm_after: bool

    @classmethod
    def from_json(cls, values: object) -> TextConfig:
        section = values if isinstance(values, Section) else Section(values, "text_config")
        config = cls(
            hidden_size=section.integer("hidden_size"),
            num_attention_heads=section.integer("num_attention_heads"),
            num_key_value_heads=section.integer("num_key_value_heads"),
            head_dim=section.integer("head_dim"),
            vocab_size=section.integer("vocab_size"),
            additional_vocab_size=section.integer("additional_vocab_size", 0, minimum=0),
            qkv_bias=section.boolean("qkv_bias", False),
            num_hidden_layers=section.integer("num_hidden_layers"),
            intermediate_size=section.integer("intermediate_size"),
            hidden_act=section.choice("hidden_act", ("silu",)),
            max_position_embeddings=section.integer("max_position_embeddings"),
            rope_theta=_rope_theta(section),
            use_qk_norm=section.boolean("use_qk_norm", False),
            qk_norm_type=section.choice("qk_norm_type", ("qwen3", "olmo"), "olmo"),
            layer_norm_eps=section.number("layer_norm_eps"),
            norm_after=section.boolean("norm_after", False),
        )
        if config.num_attention_heads % config.num_key_value_heads:
            section.refuse(
                "num_key_value_heads", f"a divisor of num_attention_heads = {config.num_attention_heads}"
            )
        if config.head_dim % 2:
            section.refuse("head_dim", "even, because RoPE rotates halves")
        if section.get("rope_scaling_layers") is not None:
            section.refuse("rope_scaling_layers", "null; scaled RoPE is not supported")
        if section.boolean("tie_word_embeddings", False):
            section.refuse("tie_word_embeddings", "false; MolmoAct2 keeps `lm_head` as a tensor of its own")
        return config

    @property
    def embedding_rows(self) -> int:
        """Token ids that have an embedding; `lm_head` covers the first `vocab_size` of them only."""
        return self.vocab_size + self.additional_vocab_size


def _rope_theta(section: Section) -> float:
    """The RoPE base, from `rope_parameters` in newer files or `rope_theta` in older ones; plain RoPE only."""
    for key in ("rope_scaling", "rope_parameters"):
        parameters = section.get(key)
        if parameters is None:
            continue
        kind = Section(parameters, key).get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            section.refuse(key, "null or of the supported rope_type 'default'")
    parameters = section.get("rope_parameters")
    if isinstance(parameters, Mapping) and parameters.get("rope_theta") is not None:
        return section.section("rope_parameters").number("rope_theta")
    return section.number("rope_theta")


@dataclass(frozen=True)
class ActionExpertConfig:
    """The flow-matching action expert: one block per decoder layer."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_ratio: float
    ffn_multiple_of: int
    timestep_embed_dim: int
    context_layer_norm: bool
    qk_norm: bool
    qk_norm_eps: float
    rope: bool
    causal_attn: bool

    @classmethod
    def from_json(cls, values: object) -> ActionExpertConfig:
        section = values if isinstance(values, Section) else Section(values, "action_expert_config")
        config = cls(
            hidden_size=section.integer("hidden_size"),
            num_layers=section.integer("num_layers"),
            num_heads=section.integer("num_heads"),
            mlp_ratio=section.number("mlp_ratio", 4.0),
            ffn_multiple_of=section.integer("ffn_multiple_of", 256),
            timestep_embed_dim=section.integer("timestep_embed_dim", minimum=4),
            context_layer_norm=section.boolean("context_layer_norm", True),
            qk_norm=section.boolean("qk_norm", True),
            qk_norm_eps=section.number("qk_norm_eps", 1e-6),
            rope=section.boolean("rope", True),
            causal_attn=section.boolean("causal_attn", False),
        )
        if config.hidden_size % config.num_heads:
            section.refuse("hidden_size", f"a multiple of num_heads = {config.num_heads}")
        if config.rope and config.head_dim % 2:
            section.refuse(
                "num_heads", f"such that the head size {config.head_dim} is even, because RoPE rotates halves"
            )
        if config.timestep_embed_dim % 2:
            section.refuse("timestep_embed_dim", "even: a sine half and a cosine half")
        return config

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        """Inner width of the MLP: `mlp_ratio` widths, rounded up to a multiple of `ffn_multiple_of`."""
        return math.ceil(int(self.hidden_size * self.mlp_ratio) / self.ffn_multiple_of) * self.ffn_multiple_of


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
