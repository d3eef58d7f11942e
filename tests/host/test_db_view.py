"""Scans of a snapshot beside changes, on the posix backend."""

from view_behaviour import *  # noqa: F403
