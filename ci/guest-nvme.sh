#!/bin/sh
# Give an NVMe controller of the guest, by the serial number of its disk, to exmap-nvme;
# then run the command that follows.
serial=$1
shift
for controller in /sys/class/nvme/*; do
	[ "$(tr -d ' ' <"$controller/serial")" = "$serial" ] && break
done
device=$(readlink -f "$controller/device")
address=$(basename "$device")
echo exmap-nvme >"$device/driver_override"
echo "$address" >"$device/driver/unbind"
echo "$address" >/sys/bus/pci/drivers/exmap-nvme/bind || exit 1
exec "$@"
