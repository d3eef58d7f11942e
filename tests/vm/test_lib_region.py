"""A region on both backends, side by side."""

from region_behaviour import *  # noqa: F403
