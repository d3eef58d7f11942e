"""Files: reopening, damage, refusals, and errors of I/O, on the posix backend."""

from storage_behaviour import *  # noqa: F403
