"""Values larger than a page, on the posix backend."""

from value_behaviour import *  # noqa: F403
