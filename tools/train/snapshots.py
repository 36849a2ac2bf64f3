"""Training data from the simulator: images of random scenes with the arm somewhere on, or off, the expert's way.

Every snapshot is labelled with the expert's chunk for all three colours, because a label costs less than an image:
training then draws the instruction anew each time, and no arm pose gives away which block is meant.

A folder of snapshots holds one ``.npy`` file per field of :data:`FIELDS`, memory-mapped on both sides, and
``snapshots.json`` with how it was made.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.sim import CAMERAS, COLOURS, World, expert_chunk
from molmoact2_edge.types import Image

IMAGE_SIDE = 112
PATCH = 14
GRID = IMAGE_SIDE // PATCH
RATE_HZ = 10.0
HORIZON = 12

FIELDS: Mapping[str, tuple[tuple[int, ...], str]] = {
    # Both cameras as the vision tower reads them: patches row by row, each (row, column, RGB).
    "patches": ((len(CAMERAS), GRID * GRID, PATCH * PATCH * 3), "uint8"),
    "state": ((6,), "float32"),  # measured joint positions, degrees and gripper 0..100
    "chunks": ((len(COLOURS), HORIZON, 6), "float32"),  # the expert's targets for every colour
    "places": ((len(COLOURS), 2), "float32"),  # block centres on the table, metres
    "pixels": ((len(CAMERAS), len(COLOURS), 2), "float32"),  # block centres in the images: column, row
    "visible": ((len(CAMERAS), len(COLOURS)), "float32"),  # share of each block that a camera sees
    "scene": ((), "int64"),
}

# Test episodes use seeds in the thousands; these streams share nothing with them.
_STREAM = 0x50_10_1


@dataclass(frozen=True)
class SnapshotPlan:
    """How many snapshots, and how far from the expert's way."""

    scenes: int
    per_scene: int = 4
    seed: int = 0
    noise_deg: float = 1.0
    """Deviation of the noise on every arm joint."""
    wide_share: float = 0.25
    """Share of the snapshots with three times that noise."""
    stray_share: float = 0.3
    """Share of the scenes in which the arm comes from a random pose over the table instead of its start."""
    path_steps: int = 15
    """Steps of the expert's way that snapshots are drawn from; the last ones have arrived."""

    @property
    def snapshots(self) -> int:
        return self.scenes * self.per_scene


def to_patches(image: Image) -> Image:
    """(H, W, 3) uint8 to (patches, PATCH * PATCH * 3) uint8, row by row."""
    rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
    tiles = image.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4)
    patches: Image = tiles.reshape(rows * columns, -1)
    return patches


def observe(world: World) -> dict[str, npt.NDArray[Any]]:
    """Return one snapshot of the world as it is now, without the ``scene`` field."""
    points = [world.image_points(camera) for camera in CAMERAS]
    return {
        "patches": np.stack([to_patches(world.render(camera)) for camera in CAMERAS]),
        "state": world.positions().astype(np.float32),
        "chunks": np.stack([expert_chunk(world, c, HORIZON, RATE_HZ) for c in COLOURS]).astype(np.float32),
        "places": world.block_positions()[:, :2].astype(np.float32),
        # A point behind the camera projects to infinity; it is never visible, so any number will do.
        "pixels": np.nan_to_num(np.stack([p.pixels for p in points]), posinf=-1e3, neginf=-1e3).astype(
            np.float32
        ),
        "visible": np.stack([p.visible for p in points]).astype(np.float32),
    }


def scene_snapshots(world: World, plan: SnapshotPlan, scene: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Draw one scene and yield its snapshots; the same scene number always gives the same ones."""
    rng = np.random.default_rng([_STREAM, plan.seed, scene])
    world.reset(rng)
    start = world.positions()
    if rng.random() < plan.stray_share:
        start = start + rng.uniform(-1, 1, 6) * np.array([40.0, 25.0, 25.0, 20.0, 6.0, 0.0])
    world.set_positions(start)
    # A stray pose may lie below the table; the way there and back says nothing.
    while world.grip_point()[2] < 0.03:
        world.set_positions(world.positions() + np.array([0.0, -5.0, -5.0, 0.0, 0.0, 0.0]))
    colour = COLOURS[int(rng.integers(len(COLOURS)))]
    way = np.concatenate([world.positions()[None], expert_chunk(world, colour, plan.path_steps, RATE_HZ)])
    for step in rng.choice(len(way), size=plan.per_scene, replace=False):
        scale = plan.noise_deg * (3.0 if rng.random() < plan.wide_share else 1.0)
        world.set_positions(way[step] + rng.normal(size=6) * np.array([scale] * 5 + [1.0]))
        yield observe(world)


def create(folder: Path, count: int) -> dict[str, np.memmap[Any, Any]]:
    """Create the field files of ``count`` snapshots, to be filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape))
        for name, (shape, dtype) in FIELDS.items()
    }


def load(folder: Path) -> dict[str, np.memmap[Any, Any]]:
    """Memory-map a finished folder of snapshots, read-only."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FIELDS}


def is_complete(folder: Path, plan: SnapshotPlan) -> bool:
    """Whether the folder holds exactly the snapshots of this plan."""
    record = folder / "snapshots.json"
    return record.exists() and json.loads(record.read_text()) == asdict(plan)


def _fill(folder: str, plan: SnapshotPlan, first: int, step: int, done: Any) -> None:
    arrays = {name: np.lib.format.open_memmap(Path(folder) / f"{name}.npy", mode="r+") for name in FIELDS}
    world = World(0, image_size=(IMAGE_SIDE, IMAGE_SIDE))
    for scene in range(first, plan.scenes, step):
        for i, snapshot in enumerate(scene_snapshots(world, plan, scene)):
            row = scene * plan.per_scene + i
            arrays["scene"][row] = scene
            for name, values in snapshot.items():
                arrays[name][row] = values
        with done.get_lock():
            done.value += plan.per_scene
    world.close()


def generate(folder: Path, plan: SnapshotPlan, *, workers: int, progress: Callable[[int], None]) -> None:
    """Make the snapshots of a plan with several processes; ``progress`` is told how many are done."""
    create(folder, plan.snapshots)
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    processes = [
        context.Process(target=_fill, args=(str(folder), plan, worker, workers, done))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        processes[0].join(timeout=0.5)
        if processes[0].exitcode is not None:
            next((p for p in processes if p.is_alive()), processes[0]).join(timeout=0.5)
        progress(done.value)
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a data process ended with codes {[p.exitcode for p in processes]}")
    (folder / "snapshots.json").write_text(json.dumps(asdict(plan)))
