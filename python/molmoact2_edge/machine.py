"""Facts about the machine and the versions at work, for reports and benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("molmoact2-edge", "torch", "numpy", "tokenizers", "safetensors", "mujoco")


def machine_facts() -> dict[str, Any]:
    """Return processor, memory, kernel, frequency governor and package versions as JSON-ready values.

    What a system does not tell is None; nothing here identifies the machine or its user.
    """
    return {
        "processor": _cpu_field("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "virtual_machine": "hypervisor" in (_cpu_field("flags") or "").split(),
        "kernel": platform.release(),
        "preempt_rt": preempt_rt(),
        "governor": governor(),
        "autogroup": autogroup(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def preempt_rt() -> bool:
    """Return whether the kernel is built with PREEMPT_RT, which shows in its version string."""
    return "PREEMPT_RT" in platform.version()


def governor() -> str | None:
    """Return the frequency governor of the first core, or None where the system has none."""
    return _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))


def autogroup() -> bool:
    """Return whether the scheduler groups processes by their sessions (kernel.sched_autogroup_enabled)."""
    return _read(Path("/proc/sys/kernel/sched_autogroup_enabled")) == "1"


def _cpu_field(name: str) -> str | None:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
