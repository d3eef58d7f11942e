"""Snapshots on the posix backend."""

from snapshot_behaviour import *  # noqa: F403
