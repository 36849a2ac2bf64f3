#!/bin/sh
# Installs system packages where this user may do so without being asked: install_packages.sh WHY PACKAGE...
# Exits 1, having said what to install, where it may not.
set -eu

why=$1
shift
if command -v apt-get >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ]; then
    become=""
  elif sudo -n true 2>/dev/null; then
    become="sudo"
  else
    become="none"
  fi
  if [ "$become" != none ]; then
    echo "$why; installing $*"
    $become apt-get update -qq
    $become apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    exit 0
  fi
fi
echo "$why. Install the package and run this again, for example: sudo apt-get install $*" >&2
exit 1
