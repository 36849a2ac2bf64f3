"""Open a recorded dataset with LeRobot's own LeRobotDataset and check all of it; needs an environment with LeRobot.

    python tools/check_dataset.py DIRECTORY [--recorded FILE.npz]

Prints one JSON object with what was found; ends with an error at the first thing that is not as it should be.
``--recorded`` names what was handed to the recorder, to compare with what LeRobot gives back: ``index`` (n,), and for
each of them ``observation.state`` and ``action`` (n, joints), which must be equal, and ``observation.images.<camera>``
(n, H, W, 3) uint8, which must be close.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# Mean absolute difference of a decoded image, of 255: colours at half the resolution blur sharp edges.
IMAGE_TOLERANCE = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recorded", type=Path, metavar="FILE.npz")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.directory)
    facts = {
        "lerobot": metadata.version("lerobot"),
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "robot_type": dataset.meta.robot_type,
        "features": {name: list(feature["shape"]) for name, feature in dataset.features.items()},
        "tasks": list(dataset.meta.tasks.index),
    }
    check_rows(dataset)
    facts["decoded"] = check_images(dataset)
    check_statistics(dataset)
    if arguments.recorded is not None:
        facts["largest_image_difference"] = check_recorded(dataset, arguments.recorded)
    json.dump(facts, sys.stdout, indent=2)
    print()


def open_dataset(root: Path) -> Any:
    """Return LeRobot's dataset; it reads what is there and asks no server."""
    make_torchvision_importable()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # torchcodec wants an FFmpeg of the system; PyAV brings its own.
    return LeRobotDataset("local/recorded", root=root, video_backend="pyav")


def make_torchvision_importable() -> None:
    """Declare the operators that a torchvision built for another torch misses; nothing here calls them."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_torchvision_library"] = library  # it takes its operators along when it goes


def check_rows(dataset: Any) -> None:
    """Every row's counters, time stamps and task follow from its place in its episode."""
    table = dataset.hf_dataset.with_format("numpy")
    require(len(table) == dataset.num_frames, f"{len(table)} rows, info.json counts {dataset.num_frames}")
    place = 0
    for number in range(dataset.num_episodes):
        episode = dataset.meta.episodes[number]
        rows = table[place : place + episode["length"]]
        frames = np.arange(episode["length"])
        name = f"episode {number}"
        require(episode["dataset_from_index"] == place, f"{name} begins at {episode['dataset_from_index']}")
        place += episode["length"]
        require(
            episode["dataset_to_index"] == place, f"{name} ends at {episode['dataset_to_index']}, not {place}"
        )
        require(bool((rows["episode_index"] == number).all()), f"{name}: episode_index")
        require(bool((rows["frame_index"] == frames).all()), f"{name}: frame_index")
        require(bool((rows["index"] == frames + place - len(frames)).all()), f"{name}: index")
        times = np.abs(rows["timestamp"] - frames / dataset.fps)
        require(float(times.max()) < 1e-4, f"{name}: time stamps are off by {times.max()} s")
        tasks = {dataset.meta.tasks.iloc[int(task)].name for task in set(rows["task_index"])}
        require(tasks == set(episode["tasks"]), f"{name}: tasks {tasks} and {episode['tasks']}")
        for key in ("observation.state", "action"):
            require(bool(np.isfinite(rows[key]).all()), f"{name}: {key} is not finite")
    require(place == dataset.num_frames, f"the episodes have {place} frames")


def check_images(dataset: Any) -> int:
    """Decode the first, the last and some frames of every episode through LeRobot; returns how many."""
    decoded = 0
    for number in range(dataset.num_episodes):
        episode = dataset.meta.episodes[number]
        first, last = episode["dataset_from_index"], episode["dataset_to_index"] - 1
        for index in sorted({first, last, *np.linspace(first, last, 5).astype(int).tolist()}):
            item = dataset[index]
            require(item["task"] in episode["tasks"], f"row {index}: task {item['task']!r}")
            for key in dataset.meta.video_keys:
                height, width, _ = dataset.features[key]["shape"]
                require(tuple(item[key].shape) == (3, height, width), f"row {index}: {key} {item[key].shape}")
                decoded += 1
    return decoded


def check_statistics(dataset: Any) -> None:
    """Statistics are there for every feature, and those of the numbers are those of the rows."""
    table = dataset.hf_dataset.with_format("numpy")
    for name, feature in dataset.features.items():
        statistics = dataset.meta.stats[name]
        shape = (3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"])
        for key in ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99"):
            require(statistics[key].shape == shape, f"{name}: {key} has shape {statistics[key].shape}")
        if feature["dtype"] == "video":
            require(bool((statistics["max"] <= 1.0).all()), f"{name}: statistics are not of 0..1")
            continue
        values = np.asarray(table[name], dtype=np.float64).reshape(len(table), -1)
        require(int(statistics["count"][0]) == len(table), f"{name}: count {statistics['count']}")
        for key, wanted in (
            ("min", values.min(0)),
            ("max", values.max(0)),
            ("mean", values.mean(0)),
            ("std", values.std(0)),
        ):
            close = np.allclose(statistics[key], wanted, rtol=1e-5, atol=1e-5)
            require(close, f"{name}: {key} is {statistics[key]}, the rows have {wanted}")


def check_recorded(dataset: Any, path: Path) -> float:
    """Compare rows with what was recorded; returns the largest mean difference of an image."""
    worst = 0.0
    with np.load(path, allow_pickle=False) as recorded:
        for place, index in enumerate(recorded["index"].tolist()):
            item = dataset[index]
            for key in recorded.files:
                if key == "index":
                    continue
                wanted = recorded[key][place]
                if key in dataset.meta.video_keys:
                    got = np.asarray(item[key].permute(1, 2, 0)) * 255.0
                    worst = max(worst, float(np.abs(got - wanted).mean()))
                    require(worst <= IMAGE_TOLERANCE, f"row {index}: {key} is off by {worst:.1f} on average")
                else:
                    same = np.array_equal(np.asarray(item[key]), wanted.astype(np.float32))
                    require(same, f"row {index}: {key} is {item[key]}, recorded was {wanted}")
    return worst


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise SystemExit(f"not as recorded: {otherwise}")


if __name__ == "__main__":
    main()
