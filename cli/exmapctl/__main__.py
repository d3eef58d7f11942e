"""Run exmapctl as `python -m exmapctl`."""

from exmapctl.app import app

app(prog_name="exmapctl")
