"""Compare what encoding a camera costs: the recorder's H.264 beside AV1 as LeRobot sets it up.

    python tools/bench/record_codecs.py [--json FILE]

Prints, for each codec, the processor time and the wall time per frame and the bytes per frame of a moving scene.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from molmoact2_edge.machine import machine_facts
from molmoact2_edge.telemetry.dataset.video import CODEC, OPTIONS

HEIGHT, WIDTH, FPS = 480, 640, 30
CODECS = {
    "recorder": (CODEC, OPTIONS, 1),
    "lerobot": ("libsvtav1", {"preset": "12", "crf": "30", "g": "2"}, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    scene = moving_scene(arguments.frames)
    result: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "frames": arguments.frames,
        "codecs": {name: encode(scene, *setup) for name, setup in CODECS.items()},
        "machine": machine_facts(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


def moving_scene(frames: int) -> list[np.ndarray[Any, Any]]:
    """Soft shapes that move, with the noise of a sensor."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (HEIGHT // 40, WIDTH // 40, 3)).astype(np.float32)
    still = np.kron(coarse, np.ones((40, 40, 1), np.float32))
    noise = rng.normal(0.0, 2.0, (8, HEIGHT, WIDTH, 3)).astype(np.float32)
    return [
        np.clip(np.roll(still, 2 * k, axis=1) + noise[k % len(noise)], 0, 255).astype(np.uint8)
        for k in range(frames)
    ]


def encode(
    scene: list[np.ndarray[Any, Any]], codec: str, options: dict[str, str], threads: int
) -> dict[str, Any]:
    """Encode the scene; ``threads`` 0 leaves it to the codec."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "scene.mp4"
        busy, wall = time.process_time(), time.perf_counter()
        with av.open(str(path), mode="w") as container:
            stream: Any = container.add_stream(codec, rate=FPS, options=options)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            stream.codec_context.thread_count = threads
            for k, image in enumerate(scene):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = k, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        busy, wall = time.process_time() - busy, time.perf_counter() - wall
        size = path.stat().st_size
    return {
        "codec": codec,
        "options": options,
        "cpu_ms_per_frame": round(busy / len(scene) * 1e3, 3),
        "wall_ms_per_frame": round(wall / len(scene) * 1e3, 3),
        "bytes_per_frame": round(size / len(scene)),
    }


if __name__ == "__main__":
    main()
