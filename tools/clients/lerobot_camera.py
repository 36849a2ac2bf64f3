"""LeRobot's own OpenCVCamera reads a camera, real or emulated; needs an environment with LeRobot 0.4.4.

    python tools/clients/lerobot_camera.py DEVICE [--size WxH] [--fps N] [--frames N]

For an emulated camera set the variables that ``molmoact2-edge emulate camera`` prints. Connects as any user of LeRobot
does, reads frames in its background thread, and prints one JSON object with what it saw.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("device")
    parser.add_argument("--size", default="640x480", metavar="WxH")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--frames", type=int, default=30)
    arguments = parser.parse_args()
    opencv = importlib.import_module("lerobot.cameras.opencv")
    width, height = map(int, arguments.size.split("x"))
    config = opencv.OpenCVCameraConfig(
        index_or_path=arguments.device, fps=arguments.fps, width=width, height=height
    )
    camera = opencv.OpenCVCamera(config)
    camera.connect()
    begun = time.perf_counter()
    frames = [camera.async_read(timeout_ms=5000) for _ in range(arguments.frames)]
    seconds = time.perf_counter() - begun
    camera.disconnect()
    report = {
        "shape": list(frames[0].shape),
        "frames": len(frames),
        "different": len({frame.tobytes() for frame in frames}),
        "frames_per_s": len(frames) / seconds,
        # The row of cells in which the emulator's test picture carries its number.
        "strips": [frame[height // 16, :, 0].tolist() for frame in (frames[0], frames[-1])],
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
