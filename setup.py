"""Names the packages and the cffi builders; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

BUILDERS = ["libexmap/libexmap_build.py", "cli/exmapctl_build.py", "dbms/exmapdb_build.py"]
PACKAGES = {
    "libexmap": "libexmap/libexmap",
    "exmapctl": "cli/exmapctl",
    "exmapctl.bench": "cli/exmapctl/bench",
    "exmapdb": "dbms/exmapdb",
}
present = {name: path for name, path in PACKAGES.items() if Path(path).is_dir()}

setup(
    packages=list(present),
    package_dir=present,
    cffi_modules=[f"{path}:ffibuilder" for path in BUILDERS if Path(path).exists()],
)
