#!/bin/sh
# Runs in a guest whose disk exmap0 has a database and, behind BYTES, acknowledgements.
#	guest-power.sh BYTES LOAD DURABILITY
set -e
disk=/dev/$(sh ci/guest-controller.sh exmap0)n1
sectors=$(($1 / 512))
shift
# nothing is written for partitions that only the kernel knows
addpart "$disk" 1 0 "$sectors"
addpart "$disk" 2 "$sectors" 16
exec python tests/power_guest.py "$disk" "$@"
