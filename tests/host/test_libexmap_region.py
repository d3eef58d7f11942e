"""A region on the posix backend."""

from region_behaviour import *  # noqa: F403
