#!/bin/sh
# Print the name (nvme0) of the NVMe controller whose disk has a serial number: controllers
# are probed side by side, so that names do not follow the order of the disks.
for controller in /sys/class/nvme/*; do
	[ "$(tr -d ' ' <"$controller/serial")" = "$1" ] && exec basename "$controller"
done
exit 1
