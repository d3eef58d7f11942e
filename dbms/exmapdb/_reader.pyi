"""Types of the extension module in native/python/reader.c."""

from collections.abc import Callable
from typing import Any

class Channel:
    def __init__(self, get: int, worker: int, /) -> None: ...
    def close(self) -> None: ...

class Reader:
    def __init__(
        self,
        channel: Channel,
        layout: int,
        owner: object,
        tree: int,
        key_types: bytes,
        columns: tuple[tuple[str, int, Callable[[Any], Any] | None], ...],
        /,
    ) -> None: ...
    def __call__(self, key: object, txn: int = 0, worker: int = 0, /) -> Any: ...
