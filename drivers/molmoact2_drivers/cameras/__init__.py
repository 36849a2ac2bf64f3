"""Cameras: V4L2 devices, files, HTTP streams and RealSense, each read by a thread that keeps the newest frame."""

from __future__ import annotations

from molmoact2_drivers.cameras.listing import ListedCamera, list_cameras
from molmoact2_drivers.cameras.opening import assigned_sources, open_cameras, open_source
from molmoact2_drivers.cameras.source import camera_options, parse_camera_option, parse_source
from molmoact2_drivers.cameras.threaded_camera import CameraStatistics, ThreadedCamera

__all__ = [
    "CameraStatistics",
    "ListedCamera",
    "ThreadedCamera",
    "assigned_sources",
    "camera_options",
    "list_cameras",
    "open_cameras",
    "open_source",
    "parse_camera_option",
    "parse_source",
]
