"""`molmoact2-edge predict`: one prediction from image files, for a look at a checkpoint without a robot."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molmoact2_edge.config import JOINT_CONVENTIONS
from molmoact2_edge.errors import InputError, MolmoAct2Error
from molmoact2_edge.types import FloatArray, Image

if TYPE_CHECKING:
    from molmoact2_edge.policy import Policy, Prediction


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser("predict", help="predict one chunk of actions from image files")
    # A state often starts with a negative number; without this, argparse takes `-12.5,3` for an option.
    parser._negative_number_matcher = re.compile(r"^-[\d.]")
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint directory, or a Hub id such as owner/name"
    )
    parser.add_argument(
        "--image", required=True, action="append", type=Path, metavar="PNG",
        help="camera frame, main camera first; repeat for each camera",
    )  # fmt: skip
    parser.add_argument("--task", required=True, help="the instruction")
    parser.add_argument("--state", required=True, help="joint state in the robot's units: 1.5,-20,3,...")
    parser.add_argument(
        "--norm-tag", help="the embodiment; may be left out where the checkpoint has only one"
    )
    parser.add_argument("--action-mode", choices=("continuous", "discrete"), default="continuous")
    parser.add_argument(
        "--action-tokenizer", type=Path, metavar="DIR", help="OpenFAST files, if not in the checkpoint"
    )
    parser.add_argument("--think", action="store_true", help="predict the depth map first (MolmoAct2-Think)")
    parser.add_argument("--num-steps", type=int, metavar="N", help="flow steps (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, metavar="S", help="makes the flow's noise reproducible")
    parser.add_argument(
        "--convention", choices=JOINT_CONVENTIONS, default="none",
        help="what stands between the robot's joints and the released weights': so100_so101 (an arm that LeRobot has "
        "calibrated), franka_droid or yam_dual (degrees and an opening of 0 to 100) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-normalize-language", action="store_true", help="take the instruction as it is")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (default)")
    parser.add_argument(
        "--execution", choices=("eager", "static", "graph"), default="eager",
        help="graph: record the call as CUDA graphs, which pays from the second call on; static: the same kernels one "
        "by one (default: eager, whose shapes fit each call)",
    )  # fmt: skip
    parser.add_argument("--offline", action="store_true", help="never touch the network")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 0 for a valid prediction, 1 for one that did not decode, 2 for input that cannot be used."""
    try:
        images, state = [read_image(path) for path in args.image], parse_state(args.state)
        # After the arguments were read, so that a typing error shows at once and not after PyTorch's import.
        from molmoact2_edge.openfast import OpenFast
        from molmoact2_edge.policy import Policy

        policy = Policy.from_pretrained(
            args.checkpoint,
            device=args.device,
            dtype=args.dtype,
            execution=args.execution,
            offline=args.offline,
        )
        if args.action_tokenizer is not None:
            policy.action_tokenizer = OpenFast.from_pretrained(args.action_tokenizer)
        prediction = policy.predict(
            images=images,
            task=args.task,
            state=state,
            norm_tag=args.norm_tag,
            action_mode=args.action_mode,
            num_steps=args.num_steps,
            seed=args.seed,
            think=args.think,
            normalize_language=not args.no_normalize_language,
            convention=args.convention,
        )
    except MolmoAct2Error as error:
        print(f"molmoact2-edge predict: {error}", file=sys.stderr)
        return 2
    names = _action_names(policy, args.norm_tag)
    print(json.dumps(as_json(prediction, names)) if args.json else as_table(prediction, names))
    return 0 if prediction.valid else 1


def read_image(path: Path) -> Image:
    """A file as (H, W, 3) uint8 RGB. Raises InputError where it is missing or no image."""
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"--image {path}: expected an image file: {error}") from error


def parse_state(text: str) -> FloatArray:
    """`1.5,-20,3` as (D,) float32. Raises InputError where a part is no number."""
    parts = re.split(r"[,\s]+", text.strip("[], \t"))
    try:
        return np.array([float(part) for part in parts], dtype=np.float32)
    except ValueError:
        raise InputError(f"--state: expected numbers separated by commas, got {text!r}") from None


def _action_names(policy: Policy, norm_tag: str | None) -> list[str]:
    stats = policy.processor.embodiment(norm_tag).action_stats
    return list(stats.names) or [f"action_{index}" for index in range(stats.dim)]


def as_json(prediction: Prediction, names: list[str]) -> dict[str, Any]:
    """The prediction as JSON-ready values."""
    codes, mask = prediction.depth_codes, prediction.depth_update_mask
    return {
        "valid": prediction.valid,
        "reason": prediction.reason,
        "names": names,
        "actions": prediction.actions.tolist(),
        "token_ids": prediction.token_ids,
        "depth_codes": None if codes is None else codes.tolist(),
        "depth_update_mask": None if mask is None else mask.tolist(),
        "timing": prediction.timing,
    }


def as_table(prediction: Prediction, names: list[str]) -> str:
    """The prediction for reading: one row per step, depth codes as their grid, seconds per stage."""
    lines = []
    if prediction.valid:
        width = max(10, *(len(name) + 2 for name in names))
        lines.append("step" + "".join(f"{name:>{width}}" for name in names))
        for step, row in enumerate(prediction.actions):
            lines.append(f"{step:>4}" + "".join(f"{value:>{width}.3f}" for value in row))
    else:
        lines.append(f"no valid actions: {prediction.reason}")
    if prediction.depth_codes is not None:
        side = round(len(prediction.depth_codes) ** 0.5)
        lines.append("\ndepth codes")
        lines.extend(
            " ".join(f"{code:>3}" for code in row) for row in prediction.depth_codes.reshape(side, -1)
        )
    stages = ", ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in prediction.timing.items())
    lines.append(f"\nmilliseconds: {stages}")
    return "\n".join(lines)
