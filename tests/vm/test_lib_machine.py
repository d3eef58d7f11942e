"""Both backends against each other and the model."""

from region_machine import TestRegionMachine

__all__ = ["TestRegionMachine"]
