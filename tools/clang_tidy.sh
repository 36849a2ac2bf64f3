#!/bin/sh
# Runs clang-tidy over every C++ source of a configured build, two at a time or JOBS: clang_tidy.sh BUILD_FOLDER
set -eu

sed -n 's/^ *"file": "\(.*\.cpp\)",\{0,1\}$/\1/p' "$1/compile_commands.json" | sort -u |
  xargs -P "${JOBS:-2}" -n 1 clang-tidy -p "$1" --quiet --warnings-as-errors='*'
