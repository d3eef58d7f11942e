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

if [ -n "$EXMAP_KO" ]; then
	insmod "$EXMAP_KO" 2>"$OUT/insmod" || verdict setup "insmod failed: $(cat "$OUT/insmod")"
	# a guest has no udev rules of ours
	chmod 660 /dev/exmap
fi
cd "$EXMAP_ROOT" || verdict setup "no project at $EXMAP_ROOT"
sh "$OUT/command" >"$OUT/stdout" 2>"$OUT/stderr" </dev/null
rc=$?
if [ -n "$EXMAP_KO" ] && grep -q '^exmap ' /proc/modules; then
	rmmod exmap 2>"$OUT/rmmod" || verdict unload "$rc" "$(cat "$OUT/rmmod")"
fi
if [ -w /sys/kernel/debug/kmemleak ]; then
	echo scan >/sys/kernel/debug/kmemleak
	cat /sys/kernel/debug/kmemleak >"$OUT/kmemleak"
fi
verdict exit "$rc"
