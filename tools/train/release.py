"""The small checkpoint's files in the released layout: configuration, tokenizer, settings, statistics, weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from snapshots import GRID, HORIZON, IMAGE_SIDE, PATCH
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as token_decoders
from tokenizers import models as token_models
from tokenizers import pre_tokenizers as splits
from tokenizers import trainers as token_trainers

from molmoact2_edge.sim import COLOURS, instruction
from molmoact2_edge.sim.scene import JOINT_NAMES

NORM_TAG = "so101_touch_sim"
SETUP = "simulated so101 robotic arm"
CONTROL = "absolute joint pose"
STATE_BINS = 256
FLOW_STEPS = 5
POOLING = 2

_CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<action_output>",
    "<state_start>",
    "<state_end>",
    *(f"<state_{i}>" for i in range(STATE_BINS)),
    "<depth_output>",
    "<setup_start>",
    "<setup_end>",
    "<control_start>",
    "<control_end>",
)
# Only ever read, never predicted: they live in the additional embedding rows, which `lm_head` does not cover.
_IMAGE_TOKENS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
    "<|image|>",
)


@dataclass(frozen=True)
class Shapes:
    """Sizes of the network; the defaults are those of the shipped checkpoint."""

    vision_width: int = 96
    vision_layers: int = 3
    vision_heads: int = 4
    width: int = 160
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 400
    expert_width: int = 128
    expert_heads: int = 4


def make_tokenizer() -> Tokenizer:
    """Train a byte-level BPE on the prompts of the task and add the control tokens.

    Nothing splits at blanks, so that a sentence of the fixed wording becomes one token: prompts of about 65 tokens are
    read in half the time of 120. The colours stay words of their own.
    """
    tokenizer = Tokenizer(token_models.BPE())
    tokenizer.pre_tokenizer = splits.Sequence(
        [
            splits.Split(Regex(" ?(" + "|".join(COLOURS) + ")"), "isolated"),
            splits.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = token_decoders.ByteLevel()
    pieces = [
        "Image 1",
        "Image 2",
        "user\nThe task is to ",
        ". The setup is ",
        SETUP,
        ". The current state of the robot is ",
        ". The expected control mode is ",
        CONTROL,
        ". Given these, what action should the robot take to complete the task?",
        "\n",
        "assistant\n",
    ]
    corpus = pieces + [f"user\nThe task is to {instruction(colour)}. The setup is " for colour in COLOURS]
    trainer = token_trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(splits.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _CONTROL_TOKENS]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _IMAGE_TOKENS]
    )
    return tokenizer


def config_json(tokenizer: Tokenizer, shapes: Shapes) -> dict[str, Any]:
    """Return the contents of ``config.json``."""

    def token(text: str) -> int:
        found = tokenizer.token_to_id(text)
        assert found is not None, text
        return int(found)

    vocab_size = token("<im_patch>")
    vision_head = shapes.vision_width // shapes.vision_heads
    return {
        "model_type": "molmoact2",
        "architectures": ["MolmoAct2ForConditionalGeneration"],
        "vit_config": {
            "hidden_size": shapes.vision_width,
            "intermediate_size": 4 * shapes.vision_width,
            "num_hidden_layers": shapes.vision_layers,
            "num_attention_heads": shapes.vision_heads,
            "num_key_value_heads": shapes.vision_heads,
            "head_dim": vision_head,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "image_default_input_size": [IMAGE_SIDE, IMAGE_SIDE],
            "image_patch_size": PATCH,
            "image_num_pos": GRID * GRID,
        },
        "adapter_config": {
            "vit_layers": [-1, 0],
            "pooling_attention_mask": True,
            "hidden_size": shapes.vision_width,
            "num_attention_heads": shapes.vision_heads,
            "num_key_value_heads": shapes.vision_heads,
            "head_dim": vision_head,
            "hidden_act": "silu",
            "intermediate_size": 2 * shapes.width,
            "text_hidden_size": shapes.width,
        },
        "text_config": {
            "hidden_size": shapes.width,
            "num_attention_heads": shapes.heads,
            "num_key_value_heads": shapes.kv_heads,
            "head_dim": shapes.width // shapes.heads,
            "vocab_size": vocab_size,
            "additional_vocab_size": len(_IMAGE_TOKENS),
            "qkv_bias": False,
            "num_hidden_layers": shapes.layers,
            "intermediate_size": shapes.mlp,
            "hidden_act": "silu",
            "max_position_embeddings": 1024,
            "rope_theta": 10000.0,
            "use_qk_norm": True,
            "qk_norm_type": "qwen3",
            "layer_norm_eps": 1e-6,
            "norm_after": False,
            "tie_word_embeddings": False,
        },
        "action_expert_config": {
            "hidden_size": shapes.expert_width,
            "num_layers": shapes.layers,
            "num_heads": shapes.expert_heads,
            "mlp_ratio": 3.0,
            "ffn_multiple_of": 32,
            "timestep_embed_dim": 64,
            "context_layer_norm": True,
            "qk_norm": True,
            "qk_norm_eps": 1e-6,
            "rope": True,
            "causal_attn": False,
        },
        "add_action_expert": True,
        "add_setup_tokens": True,
        "add_control_tokens": True,
        "action_mode": "continuous",
        "state_format": "discrete",
        "num_state_tokens": STATE_BINS,
        "num_action_tokens": 0,
        "max_action_dim": len(JOINT_NAMES),
        "max_action_horizon": HORIZON,
        "n_obs_steps": 1,
        "mask_action_dim_padding": True,
        "flow_matching_num_steps": FLOW_STEPS,
        "flow_matching_beta_alpha": 1.0,
        "flow_matching_beta_beta": 1.5,
        "flow_matching_cutoff": 1.0,
        "flow_matching_time_offset": 0.001,
        "flow_matching_time_scale": 0.999,
        "enable_depth_reasoning": False,
        "action_expert_depth_gate": False,
        "norm_stats_filename": "norm_stats.json",
        "bos_token_id": token("<|im_end|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "action_output_token_id": token("<action_output>"),
        "state_start_token_id": token("<state_start>"),
        "state_end_token_id": token("<state_end>"),
        "state_token_start_id": token("<state_0>"),
        "depth_output_token_id": token("<depth_output>"),
        "image_patch_id": token("<im_patch>"),
        "image_col_id": token("<im_col>"),
        "image_start_token_id": token("<im_start>"),
        "image_end_token_id": token("<im_end>"),
        "low_res_image_start_token_id": token("<low_res_im_start>"),
        "frame_start_token_id": token("<frame_start>"),
        "frame_end_token_id": token("<frame_end>"),
        "image_low_res_id": token("<im_low>"),
        "image_high_res_id": token("<im_patch>"),
    }


def processor_json() -> dict[str, Any]:
    """Return the contents of ``processor_config.json``."""
    return {
        "processor_class": "MolmoAct2Processor",
        "image_processor": {
            "image_processor_type": "MolmoAct2ImageProcessor",
            "crop_mode": "resize",
            "size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
            "patch_size": PATCH,
            "pooling_size": [POOLING, POOLING],
            "max_crops": 1,
            "overlap_margins": [4, 4],
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
        },
        "image_use_col_tokens": False,
        "use_single_crop_col_tokens": False,
        "use_single_crop_start_token": True,
        "use_frame_special_tokens": True,
    }


def norm_stats_json(states: npt.NDArray[Any], actions: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the contents of ``norm_stats.json`` for states (N, 6) and action targets (M, 6).

    The mode is ``min_max``: with quantiles a hundredth of the table would lie beyond what the policy can reach.
    """

    def statistics(values: npt.NDArray[Any]) -> dict[str, Any]:
        values = values.astype(np.float64)
        found = {
            "mean": values.mean(0),
            "std": values.std(0),
            "min": values.min(0),
            "max": values.max(0),
            **{f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in (1, 10, 90, 99)},
        }
        listed: dict[str, Any] = {key: np.round(value, 4).tolist() for key, value in found.items()}
        return {**listed, "mask": [True] * values.shape[1], "names": [f"{name}.pos" for name in JOINT_NAMES]}

    return {
        "format": "molmoact2_norm_stats.v1",
        "norm_mode": "min_max",
        "metadata_by_tag": {
            NORM_TAG: {
                "action_horizon": HORIZON,
                "n_action_steps": HORIZON,
                "setup_type": SETUP,
                "control_mode": CONTROL,
                "action_stats": statistics(actions),
                "state_stats": statistics(states),
            }
        },
    }


def write_settings(folder: Path, shapes: Shapes, stats: Mapping[str, Any]) -> None:
    """Write everything but the weights and the card."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    files: Sequence[tuple[str, Mapping[str, Any]]] = (
        ("config.json", config_json(tokenizer, shapes)),
        ("processor_config.json", processor_json()),
        ("tokenizer_config.json", settings),
        ("norm_stats.json", stats),
    )
    for name, values in files:
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write ``model.safetensors``: matrices in float16, which rounds by 0.05 %, vectors in float32."""
    stored = {
        name: (tensor.half() if tensor.ndim > 1 else tensor.float()).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
