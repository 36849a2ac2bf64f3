"""Which tokens of the cache the action expert may read, and which of them are depth tokens."""

from __future__ import annotations

import numpy as np

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.types import BoolArray, IntArray


def cross_attention_mask(token_ids: IntArray, config: ModelConfig) -> BoolArray:
    """Return bool (S,): true for every token that the expert reads.

    With ``action_mode`` "both" that leaves out end tokens (an inserted beginning token may be one) and every span
    from ``<action_start>`` to ``<action_end>``, both included; a span that never ends reaches to the end.
    """
    valid = np.ones(len(token_ids), dtype=np.bool_)
    if config.action_mode != "both":
        return valid
    valid &= token_ids != config.eos_token_id
    inside = False
    for i, token in enumerate(token_ids):
        inside = inside or token == config.action_start_token_id
        if inside:
            valid[i] = False
        inside = inside and token != config.action_end_token_id
    return valid


def depth_tokens(token_ids: IntArray, config: ModelConfig) -> BoolArray:
    """Return bool (S,): true for ``<depth_output>``, ``<depth_start>``, ``<depth_end>`` and every depth code."""
    markers = [config.depth_output_token_id, config.depth_start_token_id, config.depth_end_token_id]
    found = np.isin(token_ids, [marker for marker in markers if marker is not None])
    if config.depth_token_start_id is not None:
        offset = token_ids - config.depth_token_start_id
        found |= (offset >= 0) & (offset < config.num_depth_tokens)
    return found
