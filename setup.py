"""Names the packages, the cffi builders and extensions; all else is in pyproject.toml."""

from setuptools import Extension, setup

BUILDERS = ["libexmap/libexmap_build.py", "cli/exmapctl_build.py", "dbms/exmapdb_build.py"]
PACKAGES = {
    "libexmap": "libexmap/libexmap",
    "exmapctl": "cli/exmapctl",
    "exmapctl.bench": "cli/exmapctl/bench",
    "exmap_drgn": "cli/exmap_drgn",
    "exmap_netlink": "cli/exmap_netlink",
    "exmapdb": "dbms/exmapdb",
    "exmapdb.bench": "dbms/exmapdb/bench",
    # the module's sources, for dkms
    "exmap_kmod": "kmod",
    **{f"exmap_kmod.{name}": f"kmod/{name}" for name in ("compat", "nvme", "selftest", "uapi")},
}


def extension(name: str, *sources: str) -> Extension:
    """Return an extension module of exmapdb."""
    return Extension(
        f"exmapdb.{name}",
        [f"dbms/native/{source}" for source in sources],
        depends=["dbms/native/exdb.h", "dbms/native/key.h"],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
    )


setup(
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    ext_modules=[
        extension("_reader", "python/reader.c", "key.c"),
        extension("_writer", "python/writer.c"),
    ],
    cffi_modules=[f"{path}:ffibuilder" for path in BUILDERS],
)
