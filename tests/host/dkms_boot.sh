#!/bin/sh
# In a guest that has what dkms_install.sh installed: sh dkms_boot.sh STAGE.
# Load the module as at boot, then look who may open the device, and what the kernel says of
# modules that it cannot verify once it wants signatures.
set -e
stage=$1
release=$(uname -r)

say() { echo "$*" >&2; exit 1; }

for directory in usr etc; do
	mkdir -p "/run/exmap/$directory/upper" "/run/exmap/$directory/work"
	mount -t overlay exmap -o "lowerdir=$stage/installed/$directory:/$directory,\
upperdir=/run/exmap/$directory/upper,workdir=/run/exmap/$directory/work" "/$directory"
done

# the one of this boot has come before the files
kill $(pidof systemd-udevd)
while pidof systemd-udevd >/dev/null; do sleep 0.1; done
/lib/systemd/systemd-udevd --daemon
if [ -x /lib/systemd/systemd-modules-load ]; then
	/lib/systemd/systemd-modules-load
else
	/etc/init.d/kmod start
fi
udevadm settle
found=$(stat -c '%U:%G %a' /dev/exmap)
[ "$found" = "root:exmap 660" ] || say "the device is $found"
[ "$(modinfo -n exmap)" = "$(echo /lib/modules/"$release"/updates/dkms/exmap.ko*)" ] ||
	say "modinfo finds $(modinfo -n exmap)"

open_as() { setpriv --reuid=65534 --regid="$1" --clear-groups sh -c ': <>/dev/exmap'; }
open_as exmap || say "a member of the group may not open the device"
! open_as nogroup 2>/dev/null || say "anybody may open the device"
rmmod exmap

# refused TEXT COMMAND: it fails, for the reason that the kernel's log has
refused() {
	text=$1
	shift
	dmesg --clear
	! "$@" 2>"/run/exmap/complaint" || say "$* was not refused"
	grep -q 'Key was rejected by service' /run/exmap/complaint || say "$(cat /run/exmap/complaint)"
	dmesg | grep -q "$text" || say "the log has no '$text'"
}
module=$(modinfo -n exmap)
case $module in
*.xz) xz -dc "$module" ;;
*) cat "$module" ;;
esac >/run/exmap/signed.ko
# a signature is appended, and lost when the file is written anew
objcopy --strip-debug /run/exmap/signed.ko /run/exmap/unsigned.ko
echo 1 >/sys/module/module/parameters/sig_enforce
refused 'Loading of unsigned module is rejected' insmod /run/exmap/unsigned.ko
refused 'Loading of module with unavailable key is rejected' modprobe exmap
