"""The posix backend against the model."""

from region_machine import TestRegionMachine

__all__ = ["TestRegionMachine"]
