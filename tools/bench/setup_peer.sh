#!/bin/sh
# Sets up what tools/bench/peer_lerobot.py compares with: LeRobot's MolmoAct2 folder and the packages that it imports.
#
#   tools/bench/setup_peer.sh [PYTHON [DIRECTORY [PIP OPTIONS...]]]
#
# PYTHON (default .venv/bin/python) is an interpreter that has this project and torch; it is left as it is.
# DIRECTORY (default build/peer) receives
#   lerobot/.../molmoact2_hf_model   LeRobot 0.6.1's own MolmoAct2, taken out of its wheel; LeRobot itself is not installed
#   env/                             an environment on top of PYTHON's with the few packages that PYTHON lacks
# PIP OPTIONS go to every pip call. On a machine without a registry, carry the wheels and say where they lie:
#   tools/bench/setup_peer.sh python3 build/peer --no-index --find-links wheels
# `pip download` of the lines below, run on a machine with the same Python version, fills such a folder.
set -eu

python=${1:-.venv/bin/python}
directory=${2:-build/peer}
[ $# -ge 1 ] && shift
[ $# -ge 1 ] && shift

# LeRobot 0.6.1 declares Python 3.12; its MolmoAct2 folder runs on 3.10 and later. Its wheel is pure Python.
mkdir -p "$directory"
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --dest "$directory" "$@" lerobot==0.6.1

"$python" - "$directory" <<'UNPACK'
import sys
import zipfile
from pathlib import Path

directory = Path(sys.argv[1])
with zipfile.ZipFile(directory / "lerobot-0.6.1-py3-none-any.whl") as wheel:
    folder = "lerobot/policies/molmoact2/molmoact2_hf_model/"
    kept = [name for name in wheel.namelist() if name.startswith(folder) or name.endswith("dist-info/METADATA")]
    wheel.extractall(directory, kept)
UNPACK

# An environment that sees PYTHON's packages behind its own: torch and this project are not installed a second time.
"$python" -m venv "$directory/env"
base=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
site=$("$directory/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf 'import site; site.addsitedir("%s")\n' "$base" > "$site/base_environment.pth"

# transformers is all that the network needs; the rest is for the processors, which only checkpoints use.
"$directory/env/bin/python" -m pip install -q "$@" 'transformers>=5.4,<5.6'
"$directory/env/bin/python" -m pip install -q "$@" einops requests scipy ||
  echo "no processors: only --shapes will work" >&2
# torchvision's own requirements would replace torch; peer_lerobot.py copes with a torchvision built for another torch.
"$directory/env/bin/python" -m pip install -q --no-deps "$@" torchvision ||
  echo "no torchvision: only --shapes will work" >&2

echo "ready: $directory/env/bin/python tools/bench/peer_lerobot.py --peer $directory"
