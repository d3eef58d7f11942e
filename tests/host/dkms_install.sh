#!/bin/sh
# Install the module with dkms as docs/how-to/install.md says, for one kernel, then another,
# and take it all out again: sh dkms_install.sh SOURCES STAGE FIRST SECOND.
# Runs in a mount namespace of its own, so that the machine's directories stay as they are;
# what changes in them goes to STAGE/changes, and, before it is taken out, to STAGE/installed.
set -e
sources=$1 stage=$2 first=$3 second=$4

for directory in usr etc var; do
	mkdir -p "$stage/changes/$directory" "$stage/overlay/$directory"
	mount -t overlay exmap -o \
		"lowerdir=/$directory,upperdir=$stage/changes/$directory,workdir=$stage/overlay/$directory" \
		"/$directory"
done

dkms add "$sources"
dkms install exmap/0.1.0 -k "$first"
dkms status exmap >"$stage/status-first"
groupadd --system exmap
cp "$sources/60-exmap.rules" /etc/udev/rules.d/
echo exmap >/etc/modules-load.d/exmap.conf

# what Debian's kernel packages run once they are unpacked
/etc/kernel/postinst.d/dkms "$second"
dkms status exmap >"$stage/status-second"
cp -a "$stage/changes" "$stage/installed"

dkms remove exmap/0.1.0 --all
rm -r /usr/src/exmap-0.1.0 /etc/udev/rules.d/60-exmap.rules /etc/modules-load.d/exmap.conf
groupdel exmap
dkms status exmap >"$stage/status-removed"
find /usr/lib/modules /usr/src /var/lib/dkms /etc -name '*exmap*' ! -name 'exmap-backports*' >"$stage/left"
grep -l 'exmap' /usr/lib/modules/*/modules.* /etc/group /etc/gshadow >>"$stage/left" || true
