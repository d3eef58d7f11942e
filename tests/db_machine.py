"""Tables, indexes, transactions, snapshots, backups, crashes and reopening against a dict."""

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import exmapdb
import pytest
from db_pages import check_file
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

__all__ = ["DatabaseMachine", "settings_of"]

keys = st.integers(0, 40)
values = st.integers(0, 300).map(lambda n: f"{n}" * (n % 100))
batches = st.dictionaries(st.integers(0, 400), values, max_size=60)

Model = dict[int, str]
CHAIN = 4  # backups of which each is based on the one before


class DatabaseMachine(RuleBasedStateMachine):
    """One transaction at a time, and changes beside it, which it may or may not meet."""

    options: ClassVar[dict[str, Any]] = {"workers": 1, "log": "256KiB", "capacity": "64MiB"}
    folders: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=self.folders)
        self.copies = 0
        self.model: Model = {}
        self.txn: exmapdb.Transaction | None = None
        self.own: dict[int, str | None] = {}
        self.savepoints: list[tuple[int, dict[int, str | None]]] = []
        self.others_changed = False
        self.snapshot: tuple[exmapdb.Snapshot, Model] | None = None
        self.indexed = False
        self.backups: list[Path] = []

    @initialize()
    def create(self) -> None:
        """Make the database."""
        self.path = Path(self.folder.name) / "0.exdb"
        self.db = exmapdb.open(self.path, **self.options)
        self.db.create_table("t", {"k": "int64", "v": "text"}, key="k")

    def teardown(self) -> None:
        """Close it, and check every page."""
        self.db.close()
        check_file(self.path)
        self.folder.cleanup()

    @property
    def seen(self) -> Model:
        """What the transaction sees, or everybody."""
        merged = self.model | self.own
        return {key: value for key, value in merged.items() if value is not None}

    @property
    def table(self) -> exmapdb.Table:
        """Return the table as the transaction sees it, or everybody."""
        return self.txn.table("t") if self.txn else self.db.table("t")

    def write(self, changes: dict[int, str | None]) -> None:
        """Note what the transaction has written, or everybody sees."""
        if self.txn:
            self.own |= changes
        else:
            self.model |= changes  # type: ignore[arg-type]
            self.model = {key: value for key, value in self.model.items() if value is not None}

    @rule(batch=batches, replace=st.booleans())
    def insert(self, batch: Model, replace: bool) -> None:
        """Insert rows: all of them, or none."""
        if not batch:
            return
        columns = {"k": list(batch), "v": list(batch.values())}
        taken = batch.keys() & self.seen.keys()
        if taken and not replace:
            with pytest.raises(exmapdb.DuplicateKeyError) as error:
                self.table.insert_many(columns)
            assert list(batch)[error.value.row] == min(taken)
        else:
            self.table.insert_many(columns, replace=replace)
            self.write(dict(batch))

    @rule(chosen=st.lists(st.integers(0, 400), max_size=60, unique=True))
    def delete(self, chosen: list[int]) -> None:
        """Delete rows."""
        assert self.table.delete_many({"k": chosen}) == len(set(chosen) & self.seen.keys())
        self.write(dict.fromkeys(chosen))

    @rule(key=keys, value=values)
    def update(self, key: int, value: str) -> None:
        """Change a row."""
        there = key in self.seen
        assert self.table.update(key, {"v": value}) == there
        if there:
            self.write({key: value})

    @rule(key=keys)
    def get(self, key: int) -> None:
        """Read a row."""
        row = self.table.get(key)
        assert (row and row["v"]) == self.seen.get(key)

    @rule(low=st.integers(0, 400), length=st.integers(0, 400), reverse=st.booleans(), size=st.integers(1, 50))
    def scan(self, low: int, length: int, reverse: bool, size: int) -> None:
        """Read a range."""
        batches = self.table.scan(low, low + length, reverse=reverse, batch_rows=size)
        found = [row for batch in batches for row in batch.to_rows()]
        inside = [item for item in self.seen.items() if low <= item[0] < low + length]
        assert found == sorted(inside, reverse=reverse)

    @precondition(lambda self: self.indexed)
    @rule(value=values, reverse=st.booleans(), size=st.integers(1, 50))
    def scan_index(self, value: str, reverse: bool, size: int) -> None:
        """Read in the order of the index."""
        batches = self.table.scan(index="by_v", reverse=reverse, batch_rows=size)
        found = [(v, k) for batch in batches for k, v in batch.to_rows()]
        assert found == sorted(((v, k) for k, v in self.seen.items()), reverse=reverse)
        expected = [k for k, v in sorted(self.seen.items()) if v == value]
        assert [row["k"] for row in self.table.find("by_v", value)] == expected

    @precondition(lambda self: self.txn is None)
    @rule()
    def change_index(self) -> None:
        """Make the index, or drop it."""
        if self.indexed:
            self.db.drop_index("t", "by_v")
        else:
            self.db.create_index("t", "by_v", "v")
        self.indexed = not self.indexed

    @precondition(lambda self: self.snapshot is None)
    @rule()
    def freeze(self) -> None:
        """Keep what is there now."""
        self.snapshot = self.db.snapshot(), dict(self.model)

    @rule(keep=st.booleans())
    def back_up(self, keep: bool) -> None:
        """Write a backup, based on the last one, and restore it."""
        if len(self.backups) == CHAIN:
            self.backups.clear()
        path = self.path.with_name(f"backup{len(self.backups)}")
        try:
            self.db.backup(path, self.backups[-1] if self.backups else None, keep)
        except exmapdb.StorageError as error:
            # what the snapshot holds may leave no room for another one
            if error.errno != errno.EBUSY or not self.snapshot:
                raise
            return
        self.backups.append(path)
        copy = self.path.with_name("restored.exdb")
        exmapdb.restore(copy, self.backups, force=True, **self.options)
        with exmapdb.open(copy, flag="w", **self.options) as db:
            found = [row for batch in db.table("t").scan() for row in batch.to_rows()]
        assert found == sorted(self.model.items())

    @precondition(lambda self: self.snapshot is not None)
    @rule(close=st.booleans())
    def look_back(self, close: bool) -> None:
        """Read what was there then."""
        assert self.snapshot
        snapshot, model = self.snapshot
        found = [row for batch in snapshot.table("t").scan() for row in batch.to_rows()]
        assert found == sorted(model.items())
        if close:
            snapshot.close()
            self.snapshot = None

    @precondition(lambda self: self.txn is None)
    @rule()
    def begin(self) -> None:
        """Begin a transaction."""
        self.txn = self.db.begin()

    @precondition(lambda self: self.txn is not None)
    @rule(key=keys, value=st.one_of(st.none(), values))
    def change_beside(self, key: int, value: str | None) -> None:
        """Change a row outside of the transaction."""
        if value is None:
            self.db.table("t").delete(key)
            self.model.pop(key, None)
        else:
            self.db.table("t").upsert({"k": key, "v": value})
            self.model[key] = value
        self.others_changed = True

    @precondition(lambda self: self.txn is not None)
    @rule()
    def savepoint(self) -> None:
        """Remember this state."""
        assert self.txn
        self.savepoints.append((self.txn.savepoint(), dict(self.own)))

    @precondition(lambda self: self.savepoints)
    @rule(back=st.integers(1, 3))
    def rollback_to(self, back: int) -> None:
        """Go back to an earlier state."""
        assert self.txn
        at = max(len(self.savepoints) - back, 0)
        savepoint, self.own = self.savepoints[at]
        del self.savepoints[at:]
        self.txn.rollback_to(savepoint)

    @precondition(lambda self: self.txn is not None)
    @rule(commit=st.booleans())
    def end(self, commit: bool) -> None:
        """Commit, or roll back; only what others have changed can get in the way."""
        assert self.txn
        if commit:
            try:
                self.txn.commit()
                self.model = self.seen
            except exmapdb.ConflictError:
                assert self.others_changed
        else:
            self.txn.rollback()
        self.forget_transaction()

    def forget_transaction(self) -> None:
        """As it was before one began."""
        self.txn, self.own, self.savepoints, self.others_changed = None, {}, [], False

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        """Close and open, or go on with a copy of the file as a crash would leave it."""
        if crash:
            self.copies += 1
            copy = self.path.with_name(f"{self.copies}.exdb")
            shutil.copy(self.path, copy)
            self.db.close()
            self.path.unlink()
            self.path = copy
        else:
            self.db.close()
        self.forget_transaction()
        self.snapshot = None
        self.db = exmapdb.open(self.path, flag="w", **self.options)

    @rule()
    def checkpoint(self) -> None:
        """Make a checkpoint, and check every page."""
        self.db.checkpoint()
        check_file(self.path)

    @invariant()
    def counts(self) -> None:
        """The number of rows is right whatever has happened."""
        if hasattr(self, "db"):
            assert self.db.table("t").count() == len(self.model)


def settings_of(examples: int, steps: int) -> settings:
    """Return settings for so many runs of so many steps."""
    no_check = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=no_check
    )
