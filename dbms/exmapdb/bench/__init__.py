"""Benches of exmapdb beside other engines."""
