"""The training loop: what one stage trains, its schedule, and checkpoints from which it goes on bit by bit.

A step's data, noise and flow times follow from the stage's seed and the step's number alone, so a checkpoint needs no
state of a random generator.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainee import Batch, Trainee

_LOSS_WEIGHTS = {
    "presence": 1.0,
    "offset": 2.0,
    "seen_place": 1.0,
    "place": 2.0,
    "goal": 4.0,
    "answer": 0.1,
    "flow": 4.0,
}


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    flow_times: int = 0
    """Draws of noise and time per prompt; 0 trains without the action expert, on grounding and next tokens."""
    warm_up: int = 50
    final_share: float = 0.02
    """Learning rate at the end, as a share of the full one."""
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_halflife: float = 100.0
    """Steps after which the exported average has half forgotten."""
    auxiliary: float = 1.0
    """Factor of the losses other than the flow's where there is a flow loss."""
    seed: int = 0
    decay_steps: int | None = None
    """Steps over which the learning rate falls; None takes all of them. More than ``steps`` ends the stage early."""
    visits_before: int = 0
    """Episodes that the policy runs before this stage, to train on the states that it visits."""
    hand_over: Literal["average", "weights"] = "average"
    """What the next stage starts from. The average lags behind where a short stage ends at a high rate."""


class Snapshots:
    """Several folders of snapshots as one; a batch takes each folder in proportion to its size times its weight."""

    def __init__(self, folders: Sequence[Mapping[str, npt.NDArray[Any]]], weights: Sequence[float]) -> None:
        self._folders = folders
        share = np.array(
            [len(f["state"]) * w for f, w in zip(folders, weights, strict=True)], dtype=np.float64
        )
        self._share = share / share.sum()

    def fields(self, rng: np.random.Generator, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return ``count`` snapshots field by field."""
        picks = [(f, n) for f, n in zip(self._folders, rng.multinomial(count, self._share), strict=True) if n]
        parts = []
        for folder, n in picks:
            rows = np.sort(rng.choice(len(folder["state"]), size=n, replace=False))
            parts.append({name: values[rows] for name, values in folder.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class StageRun:
    """A stage under way. ``trainee`` holds the live weights; :meth:`averaged` gives those to export."""

    def __init__(self, trainee: Trainee, stage: Stage, data: Snapshots, folder: Path) -> None:
        self.trainee, self.stage, self._data, self._folder = trainee, stage, data, folder
        self.step = 0
        self._named = trainee.tensors()
        self._tensors = list(self._named.values())
        self._average = [tensor.detach().clone() for tensor in self._tensors]
        self._optimizer = torch.optim.AdamW(
            self._tensors,
            lr=stage.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=stage.weight_decay,
            fused=True,
        )

    # Going on ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write weights, averages, moments and the step; a reader never sees half of it."""
        tensors: dict[str, Tensor] = {}
        for name, tensor, average in zip(self._named, self._tensors, self._average, strict=True):
            tensors[f"weight/{name}"] = tensor.detach().clone()
            tensors[f"average/{name}"] = average
            state = self._optimizer.state.get(tensor, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    tensors[f"{moment}/{name}"] = state[moment]
        self._folder.mkdir(parents=True, exist_ok=True)
        record = json.dumps({"step": self.step, "stage": asdict(self.stage)})
        partial = self._folder / f"{self.stage.name}.partial"
        save_file(tensors, partial, metadata={"record": record})
        os.replace(partial, self.path)

    @property
    def path(self) -> Path:
        return self._folder / f"{self.stage.name}.safetensors"

    def resume(self) -> bool:
        """Go on from the file of this stage, where there is one that was made with the same settings."""
        if not self.path.exists():
            return False
        record = _record(self.path)
        if record["stage"] != asdict(self.stage):
            return False
        tensors = load_file(self.path)
        self.step = int(record["step"])
        for i, (name, tensor) in enumerate(self._named.items()):
            with torch.no_grad():
                tensor.copy_(tensors[f"weight/{name}"])
            self._average[i].copy_(tensors[f"average/{name}"])
            if f"exp_avg/{name}" in tensors:
                self._optimizer.state[tensor] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"exp_avg/{name}"].clone(),
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].clone(),
                }
        return True

    def averaged(self) -> dict[str, Tensor]:
        """Return the running average of everything that is trained, by name."""
        return dict(zip(self._named, self._average, strict=True))

    # Training ----------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng([self.stage.seed, step])
        return self.trainee.prompts.batch(self._data.fields(rng, self.stage.batch))

    def advance(self) -> dict[str, float]:
        """Train one step; return its losses."""
        stage, trainee = self.stage, self.trainee
        batch = self.batch(self.step)
        features = trainee.image_features(batch.patches)
        if stage.flow_times:
            cache = trainee.encode(features, batch.suffixes)
            losses = trainee.grounding_losses(batch, features, cache)
            losses = {name: loss * stage.auxiliary for name, loss in losses.items()}
            generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + self.step)
            losses["flow"] = trainee.flow_loss(batch, cache, stage.flow_times, generator)
        else:
            cache, answer = trainee.encode_with_answers(features, batch.suffixes, batch.places)
            losses = {**trainee.grounding_losses(batch, features, cache), "answer": answer}
        total = torch.stack([_LOSS_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        self._optimizer.zero_grad()
        total.backward()
        trained = [tensor for tensor in self._tensors if tensor.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(trained, stage.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = stage.learning_rate * self._rate_share()
        self._optimizer.step()
        self.step += 1
        # Early on the average is over all steps so far; later it forgets at its half-life.
        keep = min(0.5 ** (1 / stage.ema_halflife), self.step / (self.step + 9))
        torch._foreach_lerp_(self._average, [tensor.detach() for tensor in self._tensors], 1 - keep)
        return {**{name: float(loss.detach()) for name, loss in losses.items()}, "norm": float(norm)}

    def _rate_share(self) -> float:
        stage = self.stage
        if self.step < stage.warm_up:
            return (self.step + 1) / stage.warm_up
        progress = (self.step - stage.warm_up) / max(1, (stage.decay_steps or stage.steps) - stage.warm_up)
        return stage.final_share + (1 - stage.final_share) * 0.5 * (
            1 + math.cos(math.pi * min(1.0, progress))
        )

    def run(
        self,
        report: Callable[[int, Mapping[str, float]], None],
        *,
        save_every: int = 100,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the end of the stage; ``report`` gets every step's losses."""
        while self.step < self.stage.steps and not stop():
            losses = self.advance()
            report(self.step, losses)
            if self.step % save_every == 0:
                self.save()
        self.save()


def _record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    record: dict[str, Any] = json.loads(header["__metadata__"]["record"])
    return record


def load_averages(trainee: Trainee, path: Path) -> None:
    """Put the averaged weights of a stage's file into the trainee."""
    tensors = load_file(path)
    with torch.no_grad():
        for name, tensor in trainee.tensors().items():
            tensor.copy_(tensors[f"average/{name}"])


@torch.no_grad()
def grounding_error(trainee: Trainee, fields: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return metres between named block and regressed place, for every snapshot and colour."""
    batch = trainee.prompts.batch(fields)
    cache = trainee.encode(trainee.image_features(batch.patches), batch.suffixes)
    return trainee.place_error(batch, cache).double().numpy().ravel()


@torch.no_grad()
def chunk_error(
    trainee: Trainee, fields: Mapping[str, npt.NDArray[Any]], *, steps: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return degrees between predicted and expert chunks (N, colours, T, 6)."""
    prompts = trainee.prompts
    batch = prompts.batch(fields)
    cache = trainee.encode(trainee.image_features(batch.patches), batch.suffixes)
    rows = batch.chunks.flatten(0, 1)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    found = trainee.integrate(trainee.context(cache), noise, steps).clamp(-1, 1)
    stats = prompts.embodiment.action_stats.values
    scale = torch.from_numpy(stats["max"] - stats["min"]) / 2
    return ((found - rows).abs() * scale).view_as(batch.chunks).double().numpy()
