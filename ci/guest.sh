#!/bin/sh
# Runs inside the guest, as root: ci/vm.py wrote OUT/environment and OUT/command.
# The verdict is a file that does not exist until the end; no file means FAIL.
OUT=$1
cat /dev/kmsg >"$OUT/kmsg" 2>/dev/null &
. "$OUT/environment"

verdict() {
	dmesg >"$OUT/dmesg" 2>/dev/null
	echo "$*" >"$OUT/verdict.new" && mv "$OUT/verdict.new" "$OUT/verdict"
	exit 0
}

# An object counts as leaked when two scans, seconds apart, find no pointer to it and
# no change in it.  With the module loaded its functions have names in the report.
find_leaks() {
	[ -n "$EXMAP_KMEMLEAK" ] || return
	leaks=/sys/kernel/debug/kmemleak
	{ echo scan >$leaks && sleep 6 && echo scan >$leaks; } 2>"$OUT/kmemleak-errors" ||
		verdict setup "kmemleak does not scan: $(cat "$OUT/kmemleak-errors")"
	cat $leaks >>"$OUT/kmemleak"
	echo clear >$leaks
}

if [ -n "$EXMAP_CACHED" ]; then
	mkdir /run/cached
	mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose exmap.cached /run/cached ||
		verdict setup "no cached view of the host's files"
	for directory in $EXMAP_CACHED; do
		mount --bind "/run/cached$directory" "$directory" || verdict setup "cannot cache $directory"
	done
fi

if [ -n "$EXMAP_INSPECT" ]; then
	# the kernel's notes for who reads its memory, and word of a panic
	modprobe -a qemu_fw_cfg pvpanic_pci 2>"$OUT/modprobe" || verdict setup "$(cat "$OUT/modprobe")"
fi

if [ -n "$EXMAP_KO" ]; then
	insmod "$EXMAP_KO" 2>"$OUT/insmod" || verdict setup "insmod failed: $(cat "$OUT/insmod")"
	# a guest has no udev rules of ours
	chmod 660 /dev/exmap
fi
cd "$EXMAP_ROOT" || verdict setup "no project at $EXMAP_ROOT"
sh "$OUT/command" >"$OUT/stdout" 2>"$OUT/stderr" </dev/null
rc=$?
find_leaks
if [ -n "$EXMAP_KO" ] && grep -q '^exmap ' /proc/modules; then
	rmmod exmap 2>"$OUT/rmmod" || verdict unload "$rc" "$(cat "$OUT/rmmod")"
	find_leaks
fi
verdict exit "$rc"
