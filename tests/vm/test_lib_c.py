"""The C library."""

from c_library import *  # noqa: F403
