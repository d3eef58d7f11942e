"""Random operations on a database against a dict. Posix backend."""

from typing import Any

import pytest
from db_machine import DatabaseMachine, settings_of


class PosixMachine(DatabaseMachine):
    """A pool of the least frames that there may be."""

    options: Any = DatabaseMachine.options | {"backend": "posix", "memory": "128KiB"}


class TestDatabase(PosixMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings_of(25, 30)


@pytest.mark.slow
class TestDatabaseAtLength(PosixMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings_of(600, 60)
