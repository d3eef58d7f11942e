#!/bin/sh
# The tests that are named, in a guest as ci/guest-suite.sh wants it, with a module that
# counts what is executed; then what it has counted.
sh ci/guest-suite.sh "$@"
code=$?
mkdir "$EXMAP_OUT/gcda"
python ci/gcov_dump.py "$EXMAP_KO" "$EXMAP_OUT/gcda" || exit
exit $code
