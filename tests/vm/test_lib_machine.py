"""Both backends against each other and the model."""

from region_machine import TestRegionMachine
from snapshot_machine import TestSnapshotMachine

__all__ = ["TestRegionMachine", "TestSnapshotMachine"]
