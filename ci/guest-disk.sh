#!/bin/sh
# Make a file system on a disk of the guest, by its serial number, mount it, and run a command:
#	guest-disk.sh SERIAL DIRECTORY COMMAND...
set -e
disk=/dev/$(sh ci/guest-controller.sh "$1")n1
directory=$2
shift 2
mkdir -p "$directory"
mkfs.ext4 -q -F "$disk"
mount "$disk" "$directory"
trap 'umount "$directory"' EXIT
"$@"
