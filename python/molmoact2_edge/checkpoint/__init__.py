"""Checkpoint reading: configuration, statistics and weights, checked before use, nothing executed."""

from molmoact2_edge.checkpoint.config import (
    ActionExpertConfig,
    AdapterConfig,
    ModelConfig,
    TextConfig,
    VitConfig,
)
from molmoact2_edge.checkpoint.files import Checkpoint
from molmoact2_edge.checkpoint.norm_stats import Embodiment, NormStats, Stats
from molmoact2_edge.checkpoint.processor_config import ProcessorConfig
from molmoact2_edge.checkpoint.weights import Weights

__all__ = [
    "ActionExpertConfig",
    "AdapterConfig",
    "Checkpoint",
    "Embodiment",
    "ModelConfig",
    "NormStats",
    "ProcessorConfig",
    "Stats",
    "TextConfig",
    "VitConfig",
    "Weights",
]
