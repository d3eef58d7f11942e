"""Benches: what is measured, and the records that they yield."""

from exmapctl.bench.record import Record

__all__ = ["Record"]
