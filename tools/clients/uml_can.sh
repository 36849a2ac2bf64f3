#!/bin/sh
# Real SocketCAN where the kernel has none: boots Debian's User-Mode Linux, whose files are this machine's, read-only, makes
# virtual CAN interfaces, and runs there what talks to them: uml_can.sh TEST_SOCKETCAN [PYTHON [LEROBOT_PYTHON]]
#
# TEST_SOCKETCAN is the C++ test; PYTHON one that has this package with its extra `arms`: then an emulated arm is on vcan2,
# python-can and the YAM driver meet it, and LEROBOT_PYTHON's LeRobot too. Exits with 0 where everything passed.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)

# --- inside: the first process of the guest ---
if [ "${1:-}" = --guest ]; then
  shift
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  for place in /tmp /run /dev/shm; do
    [ -d "$place" ] || mkdir -p "$place"
    mount -t tmpfs tmpfs "$place"
  done
  mkdir -p /dev/pts
  mount -t devpts devpts /dev/pts
  modules=/usr/lib/uml/modules/$(uname -r)/kernel
  for module in net/can/can net/can/can-raw drivers/net/can/dev/can-dev drivers/net/can/vcan; do
    insmod "$modules/$module.ko"
  done
  ip link set lo up
  for interface in vcan0 vcan1 vcan2; do
    ip link add "$interface" type vcan
    ip link set "$interface" up
  done
  code=0
  export PYTHONDONTWRITEBYTECODE=1 HOME=/tmp OMP_NUM_THREADS=1
  if [ -n "${2:-}" ]; then
    mkfifo /tmp/faults
    "$2" -c 'import sys; from molmoact2_edge.cli import main; sys.exit(main())' emulate yam --socketcan vcan2 \
      < /tmp/faults > /tmp/address &
    exec 3> /tmp/faults
    until [ -s /tmp/address ]; do sleep 0.1; done
  else
    ip link del vcan2
  fi
  "$1" || code=1
  if [ -n "${2:-}" ]; then
    "$2" "$root/tools/clients/yam_socketcan.py" vcan2 || code=1
  fi
  if [ -n "${3:-}" ]; then
    "$3" "$root/tools/clients/lerobot_damiao.py" vcan2 socketcan || code=1
  fi
  echo "uml_can: exit code $code"
  echo o > /proc/sysrq-trigger
  sleep 60
fi

# --- outside ---
if [ $# -lt 1 ]; then
  sed -n '2,6p' "$0" >&2
  exit 2
fi
sh "$root/tools/ensure_program.sh" linux.uml user-mode-linux
sh "$root/tools/ensure_program.sh" insmod kmod
sh "$root/tools/ensure_program.sh" ip iproute2

# The guest's first process has neither arguments with spaces nor a place to write; its words come out of its console.
absolute() { [ -z "${1:-}" ] || printf '%s/%s' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/init" <<INIT
#!/bin/sh
exec sh "$root/tools/clients/uml_can.sh" --guest "$(absolute "$1")" "$(absolute "${2:-}")" "$(absolute "${3:-}")"
INIT
chmod +x "$work/init"
timeout 300 linux.uml mem=1536M root=/dev/root rootfstype=hostfs rootflags=/ ro "init=$work/init" \
  con=null con0=null,fd:1 quiet < /dev/null > "$work/log" 2>&1 || true
cat "$work/log"
grep -q '^uml_can: exit code 0' "$work/log"
