"""`molmoact2-edge doctor`: what this machine can do, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import ctypes.util
import grp
import importlib
import json
import os
import platform
import re
import resource
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from molmoact2_edge.checkpoint.files import is_offline
from molmoact2_edge.machine import governor, preempt_rt

Status = Literal["ok", "note", "problem"]

_PACKAGE = "molmoact2-edge"
_SERIAL_GROUP = "dialout"
_SERIAL_PATTERNS = ("ttyACM*", "ttyUSB*")
_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. A note limits what works or how well; a problem stops the package from working."""

    topic: str
    status: Status
    found: str
    advice: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser("doctor", help="say what this machine can do and what is missing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns 1 where something stops the package from working, else 0."""
    findings = examine()
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(as_text(findings))
    return 1 if any(finding.status == "problem" for finding in findings) else 0


def examine() -> list[Finding]:
    """Looks at this machine; changes nothing and touches no network."""
    return [
        python_finding(sys.version_info[:3]),
        *compiled_findings(),
        torch_finding(),
        *(
            extra_finding(extra, packages, _is_installed)
            for extra, packages in extras_of(metadata.requires(_PACKAGE) or []).items()
        ),
        graphics_finding(os.environ.get("MUJOCO_GL"), ctypes.util.find_library),
        kernel_finding(preempt_rt(), platform.release()),
        priority_finding(resource.getrlimit(resource.RLIMIT_RTPRIO)[1]),
        memlock_finding(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]),
        governor_finding(governor()),
        serial_finding(Path("/dev"), _group_names()),
        hub_finding(is_offline()),
    ]


def as_text(findings: Iterable[Finding]) -> str:
    """One line per finding, its advice below."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.status]}  {finding.topic}: {finding.found}")
        if finding.advice:
            lines.append(f"         -> {finding.advice}")
    return "\n".join(lines)


def python_finding(version: tuple[int, ...]) -> Finding:
    shown = ".".join(str(part) for part in version)
    if version < (3, 10):
        return Finding("Python", "problem", shown, "install Python 3.10 or later")
    return Finding(
        "Python", "ok", f"{shown}, {_PACKAGE} {_version(_PACKAGE) or 'not installed as a package'}"
    )


def compiled_findings() -> list[Finding]:
    try:
        build = importlib.import_module("molmoact2_edge.build").build_config()
        devices = importlib.import_module("molmoact2_edge._core").cuda_devices()
    except ImportError as error:
        return [
            Finding("compiled part", "problem", str(error), "install the package again: pip install -e .")
        ]
    findings = [Finding("compiled part", "ok", f"{build['build_type']}, {build['cxx_compiler']}")]
    if not build["cuda"]:
        findings.append(
            Finding(
                "CUDA kernels", "note", "not built", "with a CUDA toolkit: MOLMOACT2_CUDA=ON pip install -e ."
            )
        )
    elif not devices:
        findings.append(
            Finding(
                "CUDA kernels", "note", "built, but no device is visible", "check the driver with nvidia-smi"
            )
        )
    else:
        names = ", ".join(str(device.get("name", device)) for device in devices)
        findings.append(Finding("CUDA kernels", "ok", f"{build['cuda_architectures']} on {names}"))
    return findings


def torch_finding() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("PyTorch", "problem", str(error), "pip install torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("PyTorch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda} on {names}")
    if torch.version.cuda is None:
        return Finding(
            "PyTorch", "note", f"{torch.__version__}, built for the CPU only",
            "a released 5 B checkpoint needs a GPU for real-time control; install PyTorch built for CUDA",
        )  # fmt: skip
    return Finding(
        "PyTorch", "note", f"{torch.__version__}, built for CUDA {torch.version.cuda}, but it sees no device",
        "check the driver with nvidia-smi; it must be new enough for this CUDA version",
    )  # fmt: skip


def extras_of(requirements: Iterable[str]) -> dict[str, list[str]]:
    """Packages of each optional extra, from the installed package's own requirements."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
        if name and extra:
            extras.setdefault(extra[1], []).append(name[0])
    return extras


def extra_finding(extra: str, packages: list[str], is_installed: Callable[[str], bool]) -> Finding:
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        advice = f"if you need it: pip install '{_PACKAGE}[{extra}]'"
        return Finding(f"extra {extra}", "note", f"missing {', '.join(missing)}", advice)
    return Finding(f"extra {extra}", "ok", "installed")


def graphics_finding(chosen: str | None, find_library: Callable[[str], str | None]) -> Finding:
    """Which OpenGL the simulator's cameras can render with; `chosen` is the value of MUJOCO_GL."""
    found = [
        name
        for name, library in (("egl", "EGL"), ("osmesa", "OSMesa"), ("glfw", "GL"))
        if find_library(library)
    ]
    if not found:
        return Finding(
            "OpenGL for the simulator", "note", "no EGL, OSMesa or GL library",
            "install one: a GPU driver, or libegl1 or libosmesa6 from the system's packages",
        )  # fmt: skip
    if chosen and chosen not in found:
        return Finding(
            "OpenGL for the simulator", "note", f"MUJOCO_GL={chosen}, but its library is not there",
            f"set MUJOCO_GL to one of {', '.join(found)}",
        )  # fmt: skip
    return Finding("OpenGL for the simulator", "ok", ", ".join(found))


def kernel_finding(is_realtime: bool, release: str) -> Finding:
    if is_realtime:
        return Finding("kernel", "ok", f"{release}, PREEMPT_RT")
    return Finding(
        "kernel", "note", f"{release}, without PREEMPT_RT",
        "50 Hz control works; a PREEMPT_RT kernel shortens the longest delays",
    )  # fmt: skip


def priority_finding(limit: int) -> Finding:
    """`limit` is the hard RLIMIT_RTPRIO."""
    if limit == resource.RLIM_INFINITY or limit > 0:
        shown = "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
        return Finding("real-time priority", "ok", f"up to {shown}")
    return Finding(
        "real-time priority", "note", "not allowed for this user",
        "add `@realtime - rtprio 80` to /etc/security/limits.conf, join the group realtime, and log in again",
    )  # fmt: skip


def memlock_finding(limit: int) -> Finding:
    """`limit` is the hard RLIMIT_MEMLOCK in bytes."""
    if limit == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", "unlimited")
    return Finding(
        "locked memory", "note", f"at most {limit // 1024} KiB",
        "add `@realtime - memlock unlimited` to /etc/security/limits.conf, so that control is never paged out",
    )  # fmt: skip


def governor_finding(name: str | None) -> Finding:
    if name is None:
        return Finding("processor frequency", "ok", "no governor visible, as in most virtual machines")
    if name == "performance":
        return Finding("processor frequency", "ok", name)
    return Finding(
        "processor frequency", "note", f"governor {name}",
        "steadier timing: sudo cpupower frequency-set -g performance",
    )  # fmt: skip


def serial_finding(devices: Path, groups: Collection[str]) -> Finding:
    """Servo buses show up as serial ports below `devices`; `groups` are the user's groups by name."""
    ports = sorted(port for pattern in _SERIAL_PATTERNS for port in devices.glob(pattern))
    closed = [port.name for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    join = f"sudo usermod -aG {_SERIAL_GROUP} $USER, then log in again"
    if closed:
        return Finding("serial ports", "note", f"no permission for {', '.join(closed)}", join)
    if ports:
        return Finding("serial ports", "ok", ", ".join(port.name for port in ports))
    if _SERIAL_GROUP in groups or "root" in groups:
        return Finding("serial ports", "ok", "none plugged in; this user may open them")
    return Finding(
        "serial ports", "note", f"none plugged in; this user is not in the group {_SERIAL_GROUP}", join
    )


def hub_finding(offline: bool) -> Finding:
    if offline:
        return Finding(
            "Hugging Face Hub", "note", "offline by HF_HUB_OFFLINE: checkpoints come from disk or its cache"
        )
    return Finding("Hugging Face Hub", "ok", "may be used; --offline or HF_HUB_OFFLINE=1 forbids it")


def _group_names() -> set[str]:
    numbers = {os.getegid(), *os.getgroups()}
    return {group.gr_name for group in grp.getgrall() if group.gr_gid in numbers}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _is_installed(package: str) -> bool:
    return _version(package) is not None
