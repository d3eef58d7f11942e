#!/bin/sh
# Give the guest's first NVMe controller to exmap-nvme, and run those cases of a program
# made of tests/c/abi whose names begin with nvme_, or the ones that are named.
program=$1
shift
address=$(basename "$(readlink -f /sys/class/nvme/nvme0/device)")
device=/sys/bus/pci/devices/$address
echo exmap-nvme >"$device/driver_override"
echo "$address" >"$device/driver/unbind"
echo "$address" >/sys/bus/pci/drivers/exmap-nvme/bind || exit 1
failed=0
for name in ${*:-$("$program" list | grep ^nvme_)}; do
	"$program" run "$name" </dev/null
	code=$?
	echo "$code $name" | tee -a "$EXMAP_OUT/cases"
	[ $code = 0 ] || failed=1
done
exit $failed
