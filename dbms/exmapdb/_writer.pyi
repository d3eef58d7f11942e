"""Types of the extension module in native/python/writer.c."""

from collections.abc import Callable
from typing import Any

class Writer:
    def __init__(
        self,
        insert: int,
        layout: int,
        owner: object,
        tree: int,
        columns: tuple[tuple[str, int, Callable[[Any], Any] | None, bool], ...],
        /,
    ) -> None: ...
    def __call__(self, worker: int, txn: int, row: object, replace: bool, /) -> Any: ...
