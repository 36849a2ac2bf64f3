"""Episodes as a LeRobotDataset v3.0: parquet for numbers, MP4 for images, JSON and parquet for what they mean."""

from __future__ import annotations

from molmoact2_edge.telemetry.dataset.layout import DatasetFormat
from molmoact2_edge.telemetry.dataset.recorder import DatasetRecorder
from molmoact2_edge.telemetry.dataset.writer import DatasetWriter

__all__ = ["DatasetFormat", "DatasetRecorder", "DatasetWriter"]
