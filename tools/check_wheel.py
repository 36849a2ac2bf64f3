"""Check that a wheel works alone: unpacked in an empty place, with every optional dependency hidden."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROBE = """
import importlib.abc, pkgutil, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mujoco", "av", "hypothesis", "pytest", "scipy", "transformers", "torchvision",
                                      "pyarrow", "rerun", "serial", "dynamixel_sdk", "can", "cv2", "linuxpy",
                                      "pylibfranka", "panda_py", "pyrealsense2"}:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.path.insert(0, sys.argv[1])
# An editable install of this project would be found first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.meta_path.insert(0, Hidden())
import molmoact2_edge, molmoact2_drivers, molmoact2_emulators
assert molmoact2_edge.__file__.startswith(sys.argv[1]), molmoact2_edge.__file__
for package in (molmoact2_edge, molmoact2_drivers, molmoact2_emulators):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".lib" not in module.name:  # what emulators hand out are plain shared libraries
            importlib.import_module(module.name)
from molmoact2_edge import Policy, build_config
from molmoact2_edge.build import models_dir
assert str(models_dir()).startswith(sys.argv[1]), models_dir()
Policy.from_pretrained(models_dir() / "so101-touch", device="cpu")
print("imported", build_config())
"""

# What a user of the wheel needs besides the modules.
NEEDED = (
    "molmoact2_edge/py.typed",
    "molmoact2_drivers/py.typed",
    "molmoact2_emulators/py.typed",
    "molmoact2_edge/models/robots/so101.yaml",
    "molmoact2_edge/models/so101_sim/so101_touch.xml",
    "molmoact2_edge/models/so101-touch/model.safetensors",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(arguments.wheel) as archive:
            names = set(archive.namelist())
            archive.extractall(folder)
        missing = [name for name in NEEDED if name not in names]
        if missing:
            print(f"{arguments.wheel.name} lacks {', '.join(missing)}")
            return 1
        return subprocess.run([sys.executable, "-I", "-c", PROBE, folder], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
