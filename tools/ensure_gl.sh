#!/bin/sh
# Makes sure that MuJoCo can render off screen: EGL or OSMesa. Installs Mesa's EGL where this user may install packages.
set -eu

can_render() {
  "$PYTHON" - <<'PY'
import ctypes
import sys

for library in ("libEGL.so.1", "libOSMesa.so.8", "libOSMesa.so"):
    try:
        ctypes.CDLL(library)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
PY
}

can_render && exit 0
sh "$(dirname "$0")/install_packages.sh" "The simulator renders camera images with EGL or OSMesa, and neither was found" \
  libegl1 libgl1-mesa-dri
can_render
