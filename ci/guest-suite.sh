#!/bin/sh
# The VM suite, or the tests that are named, inside a guest that has two scratch
# disks.  The first is for tests that want a raw block device, the second gets a
# file system that takes O_DIRECT, which the guest's overlays do not.
set -e
EXMAP_TEST_BLOCK=/dev/$(sh ci/guest-controller.sh exmap0)n1
export EXMAP_TEST_BLOCK
export EXMAP_TEST_DIR=/tmp/ext4
exec sh ci/guest-disk.sh exmap1 "$EXMAP_TEST_DIR" \
	python -m pytest -q -p no:cacheprovider --durations=12 --junitxml="$EXMAP_OUT/junit.xml" "${@:-tests/vm}"
