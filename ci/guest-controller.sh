#!/bin/sh
# Print the name (nvme0) of the NVMe controller whose disk has a serial number: controllers
# are probed side by side, so that names do not follow the order of the disks, and on a busy
# host not all of them have been when the guest comes here.
for _ in $(seq 120); do
	for serial in /sys/class/nvme/*/serial; do
		[ -e "$serial" ] && [ "$(tr -d ' ' <"$serial")" = "$1" ] && exec basename "${serial%/serial}"
	done
	sleep 0.5
done
exit 1
