#!/bin/sh
# Give an NVMe controller of the guest, by the serial number of its disk, to exmap-nvme;
# then run the command that follows, which finds its PCI address in EXMAP_NVME.
controller=$(sh ci/guest-controller.sh "$1") || exit 1
shift
device=$(readlink -f "/sys/class/nvme/$controller/device")
address=$(basename "$device")
echo exmap-nvme >"$device/driver_override"
echo "$address" >"$device/driver/unbind"
echo "$address" >/sys/bus/pci/drivers/exmap-nvme/bind || exit 1
EXMAP_NVME=$address
export EXMAP_NVME
exec "$@"
