"""Types of the extension module that cffi builds from native/exdb.h."""

from typing import Any

ffi: Any
lib: Any
