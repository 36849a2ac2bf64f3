#!/bin/sh
# Makes an environment with LeRobot 0.4.4, in which tools/check_dataset.py opens recorded datasets and
# tools/clients/ drive arms.
#
#   tools/setup_lerobot.sh [PYTHON [DIRECTORY]]
#
# PYTHON (default python3) must be 3.10 or later; DIRECTORY (default build/lerobot-env) receives the environment, which
# the tests find there. Elsewhere, say where its python is: MOLMOACT2_LEROBOT_PYTHON=DIRECTORY/bin/python make test.
set -eu

python=${1:-python3}
directory=${2:-build/lerobot-env}

"$python" -m venv "$directory"
pip="$directory/bin/python -m pip install -q"

# LeRobot declares torch below 2.11 and everything that trains and drives robots. Opening a dataset needs far less, and
# any recent torch does; what torchvision misses of another torch, check_dataset.py declares.
$pip --constraint constraints.txt torch
$pip --no-deps 'torchvision==0.25.0' 'lerobot==0.4.4'
$pip 'datasets>=4.0,<5' 'av>=15,<16' 'huggingface_hub<0.36' jsonlines packaging einops draccus==0.10.0 deepdiff termcolor \
  opencv-python-headless gymnasium pandas pyarrow pillow safetensors psutil
$pip --no-deps accelerate 'diffusers<0.36'
# What the scripts in tools/clients drive servos with.
$pip feetech-servo-sdk 'dynamixel-sdk>=3.7.31,<3.9' pyserial tqdm

"$directory/bin/python" -W ignore -c '
import sys
sys.path.insert(0, "tools")
from check_dataset import make_torchvision_importable
make_torchvision_importable()
import lerobot.datasets.lerobot_dataset
'
echo "ready: $directory/bin/python tools/check_dataset.py DATASET"
