"""Time calls of a policy in a process of its own beside calls of the same policy in this one, in turns.

python tools/bench/isolation.py --calls 200 --out isolation.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.build import models_dir
from molmoact2_edge.config import load_robot
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.runtime.isolation import ThreadPolicy
from molmoact2_edge.runtime.policy_client import PolicyProcess, PolicyProcessSettings

_WARM_UP_CALLS = 5


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, tail and extreme in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(max(seconds) * 1e3, 3)}


def main() -> None:
    """Measure and print; both run the shipped policy on one thread of the CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--nice", type=int, default=0, metavar="N", help="of the process (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    config = load_robot("sim-so101")
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        for camera in config.cameras.values()
    ]
    checkpoint = str(models_dir() / "so101-touch")
    here = ThreadPolicy(checkpoint, device="cpu", dtype="float32", offline=True, threads=1)
    there = PolicyProcess(
        PolicyProcessSettings(checkpoint, "cpu", "float32", offline=True, threads=1, nice=arguments.nice),
        frame_bytes=sum(image.size for image in images),
    )
    policies: dict[str, Any] = {"thread": here, "process": there}
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    transport: list[float] = []
    try:
        for number in range(_WARM_UP_CALLS + arguments.calls):
            for name, policy in policies.items():
                begin = time.perf_counter()
                found = policy.predict(images, "touch the red block", np.zeros(6), seed=number)
                elapsed = time.perf_counter() - begin
                if number >= _WARM_UP_CALLS:
                    seconds[name].append(elapsed)
                    if name == "process":
                        transport.append(found.timing["transport"])
    finally:
        there.close()
    result: dict[str, Any] = {name: spread(values) for name, values in seconds.items()}
    result |= {"transport": spread(transport), "calls": arguments.calls, "nice": arguments.nice}
    text = json.dumps({**result, "machine": machine_facts()}, indent=2) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
