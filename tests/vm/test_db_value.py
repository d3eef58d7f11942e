"""Values larger than a page, on the kernel backend."""

from value_behaviour import *  # noqa: F403
