#!/bin/sh
# QEMU for ci/vm.py: virtme-ng says of it only that it ended, not how.
qemu-system-x86_64 "$@"
status=$?
echo "ci/vm: QEMU ended with $status" >&2
exit $status
