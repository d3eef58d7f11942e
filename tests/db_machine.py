"""Tables, indexes, transactions, snapshots, backups, crashes and reopening against a dict."""

import datetime as dt
import errno
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import exmapdb
import pytest
from db_pages import check_file
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

__all__ = ["DatabaseMachine", "settings_of"]

numbers = st.integers(0, 40)
texts = st.integers(0, 300).map(lambda n: f"{n}" * (n % 100))
batches = st.dictionaries(st.integers(0, 400), texts, max_size=60)
picks = st.integers(0, 3)

Model = dict[tuple[str, int], str]  # the text of a row, by its table and number
Own = dict[tuple[str, int], str | None]  # None for one that was deleted
CHAIN = 4  # backups of which each is based on the one before


def large(text: str) -> bytes | None:
    """Return the second value of a row with this text: of up to 30 KB, for two texts of three."""
    return text.encode() * (100 if len(text) % 3 else 1) or None


@dataclass(frozen=True, slots=True)
class Kind:
    """A table: the columns of its key, the key of a row with a number, the type of v, the value of a text.

    It has a column more, w, whose values are often longer than a page.
    """

    columns: dict[str, str]
    key: Callable[[int], tuple[Any, ...]]
    type: str
    value: Callable[[str], Any]

    def row(self, number: int, text: str) -> tuple[Any, ...]:
        """Return a row as a scan has it."""
        return (*self.key(number), self.value(text), large(text))

    def input(self, batch: Mapping[int, str]) -> dict[str, list[Any]]:
        """Return columns to insert."""
        rows = [self.row(number, text) for number, text in batch.items()]
        return dict(zip((*self.columns, "v", "w"), map(list, zip(*rows, strict=True)), strict=True))

    def keys(self, chosen: list[int]) -> dict[str, list[Any]]:
        """Return the columns of keys."""
        return {name: [self.key(n)[place] for n in chosen] for place, name in enumerate(self.columns)}

    def by_value(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what orders rows in the index."""
        return ((False,) if row[-2] is None else (True, row[-2]), row[:-2])


DAY = dt.date(1970, 1, 1)
KINDS = {
    "t": Kind({"k": "int64"}, lambda n: (n - 20,), "text", str),
    # keys that begin with other keys
    "text": Kind({"k": "text"}, lambda n: (f"{n:b}",), "int32?", lambda s: int(s[:4]) if s else None),
    # bytes that are escaped, behind numbers that fall while the rows' rise
    "pair": Kind(
        {"a": "float64", "b": "bytes"}, lambda n: (-(n % 7) / 2, bytes(n // 7)), "text?", lambda s: s or None
    ),
    # long beginnings that many rows share, some of them nearly, and that are longer than what follows
    "path": Kind(
        {"p": "text", "n": "int32"},
        lambda n: (f"europe/germany/customer-{n // 60:08d}/orders" * (1 + n // 300), n),
        "text",
        lambda s: s[:20],
    ),
    "date": Kind(
        {"d": "date", "half": "bool"},
        lambda n: (DAY + dt.timedelta(n // 2 - 50), n % 2 == 1),
        "bytes",
        str.encode,
    ),
}


class DatabaseMachine(RuleBasedStateMachine):
    """One transaction at a time, and changes beside it, which it may or may not meet."""

    options: ClassVar[dict[str, Any]] = {"workers": 1, "log": "4MiB", "capacity": "64MiB"}
    folders: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=self.folders)
        self.copies = 0
        self.steps = 0
        self.model: Model = {}
        self.names: list[str] = []
        self.indexed: set[str] = set()
        self.txn: exmapdb.Transaction | None = None
        self.own: Own = {}
        self.own_names: list[str] = []
        self.savepoints: list[tuple[int, Own, list[str]]] = []
        self.others_changed = False
        self.snapshot: tuple[exmapdb.Snapshot, Model, list[str], set[str]] | None = None
        self.backups: list[Path] = []

    @initialize()
    def create(self) -> None:
        """Make the database."""
        self.path = Path(self.folder.name) / "0.exdb"
        self.db = exmapdb.open(self.path, **self.options)
        for name in ("t", "pair"):
            self.make(name)

    def teardown(self) -> None:
        """Close it, and check every page."""
        self.db.close()
        check_file(self.path)
        self.folder.cleanup()

    @property
    def seen(self) -> Model:
        """What the transaction sees, or everybody."""
        merged = self.model | self.own
        return {row: text for row, text in merged.items() if text is not None}

    def seen_in(self, name: str) -> dict[int, str]:
        """Return what there is to see of a table."""
        return {number: text for (table, number), text in self.seen.items() if table == name}

    @property
    def view(self) -> exmapdb.Database | exmapdb.Transaction:
        """Return what shows the tables as the transaction sees them, or everybody."""
        return self.txn or self.db

    def pick(self, number: int) -> tuple[str, Kind, exmapdb.Table]:
        """Return one of the tables that there are to see."""
        names = self.names + self.own_names
        name = names[number % len(names)]
        return name, KINDS[name], self.view.table(name)

    def write(self, name: str, changes: Mapping[int, str | None]) -> None:
        """Note what the transaction has written, or everybody sees."""
        changed = {(name, number): text for number, text in changes.items()}
        if self.txn:
            self.own |= changed
        else:
            self.model = {row: text for row, text in (self.model | changed).items() if text is not None}

    def make(self, name: str) -> None:
        """Make a table, in the transaction if there is one."""
        columns = {**KINDS[name].columns, "v": KINDS[name].type, "w": "bytes?"}
        self.view.create_table(name, columns, tuple(KINDS[name].columns))
        (self.own_names if self.txn else self.names).append(name)

    @rule(name=st.sampled_from(list(KINDS)))
    def create_table(self, name: str) -> None:
        """Make a table, unless it is there."""
        if name in self.names + self.own_names:
            with pytest.raises(exmapdb.TableExistsError):
                self.make(name)
            return
        self.make(name)
        if self.txn:
            with pytest.raises(exmapdb.NoSuchTableError):
                self.db.table(name)

    @precondition(lambda self: self.txn is None and len(self.names) > 1)
    @rule(pick=picks)
    def drop_table(self, pick: int) -> None:
        """Drop a table, but not the last one."""
        name, _, table = self.pick(pick)
        self.db.drop_table(name)
        self.names.remove(name)
        self.indexed.discard(name)
        self.model = {row: text for row, text in self.model.items() if row[0] != name}
        with pytest.raises(exmapdb.NoSuchTableError):
            table.count()

    @rule(pick=picks, batch=batches, replace=st.booleans())
    def insert(self, pick: int, batch: dict[int, str], replace: bool) -> None:
        """Insert rows: all of them, or none."""
        name, kind, table = self.pick(pick)
        if not batch:
            return
        columns = kind.input(batch)
        taken = batch.keys() & self.seen_in(name).keys()
        if taken and not replace:
            with pytest.raises(exmapdb.DuplicateKeyError) as error:
                table.insert_many(columns)
            assert list(batch)[error.value.row] == min(taken, key=kind.key)
        else:
            table.insert_many(columns, replace=replace)
            self.write(name, batch)

    @rule(pick=picks, chosen=st.lists(st.integers(0, 400), max_size=60, unique=True))
    def delete(self, pick: int, chosen: list[int]) -> None:
        """Delete rows."""
        name, kind, table = self.pick(pick)
        assert table.delete_many(kind.keys(chosen)) == len(set(chosen) & self.seen_in(name).keys())
        self.write(name, dict.fromkeys(chosen))

    @rule(pick=picks, number=numbers, text=texts)
    def update(self, pick: int, number: int, text: str) -> None:
        """Change a row."""
        name, kind, table = self.pick(pick)
        there = (name, number) in self.seen
        assert table.update(kind.key(number), {"v": kind.value(text), "w": large(text)}) == there
        if there:
            self.write(name, {number: text})

    @rule(pick=picks, other=picks, number=numbers)
    def move(self, pick: int, other: int, number: int) -> None:
        """Take a row from one table to another, in one transaction."""
        source, target = self.pick(pick)[0], self.pick(other)[0]
        text = self.seen.get((source, number))

        def work(txn: exmapdb.Transaction) -> None:
            assert txn.table(source).delete(KINDS[source].key(number)) == (text is not None)
            if text is not None:
                txn.table(target).insert_many(KINDS[target].input({number: text}), replace=True)

        if self.txn:
            work(self.txn)
        else:
            self.db.run(work)
        self.write(source, {number: None})
        if text is not None:
            self.write(target, {number: text})

    @rule(pick=picks, number=numbers)
    def get(self, pick: int, number: int) -> None:
        """Read a row."""
        name, kind, table = self.pick(pick)
        row, text = table.get(kind.key(number)), self.seen.get((name, number))
        assert (row and tuple(row.values())) == (None if text is None else kind.row(number, text))

    @rule(
        pick=picks,
        bounds=st.tuples(st.integers(0, 400), st.integers(0, 400)),
        width=st.integers(1, 2),
        reverse=st.booleans(),
        size=st.integers(1, 50),
    )
    def scan(self, pick: int, bounds: tuple[int, int], width: int, reverse: bool, size: int) -> None:
        """Read a range, whose bounds are keys or the first columns of keys."""
        name, kind, table = self.pick(pick)
        low, high = sorted(kind.key(number)[:width] for number in bounds)
        batches = table.scan(low, high, reverse=reverse, batch_rows=size)
        found = [row for batch in batches for row in batch.to_rows()]
        rows = [kind.row(*item) for item in self.seen_in(name).items()]
        assert found == sorted((row for row in rows if low <= row[:-2] < high), reverse=reverse)

    @precondition(lambda self: self.indexed)
    @rule(pick=picks, text=texts, reverse=st.booleans(), size=st.integers(1, 50))
    def scan_index(self, pick: int, text: str, reverse: bool, size: int) -> None:
        """Read in the order of the index."""
        name = sorted(self.indexed)[pick % len(self.indexed)]
        kind, table = KINDS[name], self.view.table(name)
        batches = table.scan(index="by_v", reverse=reverse, batch_rows=size)
        found = [row for batch in batches for row in batch.to_rows()]
        expected = sorted((kind.row(*item) for item in self.seen_in(name).items()), key=kind.by_value)
        assert found == (expected[::-1] if reverse else expected)
        value = kind.value(text)
        same = [row for row in expected if row[-2] == value]
        assert [tuple(row.values()) for row in table.find("by_v", (value,))] == same

    @precondition(lambda self: self.txn is None)
    @rule(pick=picks)
    def change_index(self, pick: int) -> None:
        """Make the index of a table, or drop it."""
        name = self.pick(pick)[0]
        if name in self.indexed:
            self.db.drop_index(name, "by_v")
        else:
            self.db.create_index(name, "by_v", "v")
        self.indexed ^= {name}

    @precondition(lambda self: self.snapshot is None)
    @rule()
    def freeze(self) -> None:
        """Keep what is there now."""
        self.snapshot = self.db.snapshot(), dict(self.model), list(self.names), set(self.indexed)

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
            check_tables(db, self.model, self.names)

    @precondition(lambda self: self.snapshot is not None)
    @rule(close=st.booleans(), reverse=st.booleans())
    def look_back(self, close: bool, reverse: bool) -> None:
        """Read what was there then."""
        assert self.snapshot
        snapshot, model, names, indexed = self.snapshot
        check_tables(snapshot, model, names, reverse)
        for name in indexed:
            found = snapshot.table(name).scan(columns=(), index="by_v")
            assert sum(batch.rows for batch in found) == sum(table == name for table, _ in model)
        if close:
            snapshot.close()
            self.snapshot = None

    @precondition(lambda self: self.txn is None)
    @rule()
    def begin(self) -> None:
        """Begin a transaction."""
        self.txn = self.db.begin()

    @precondition(lambda self: self.txn is not None)
    @rule(pick=picks, number=numbers, text=st.one_of(st.none(), texts))
    def change_beside(self, pick: int, number: int, text: str | None) -> None:
        """Change a row outside of the transaction."""
        name = self.names[pick % len(self.names)]
        kind, table = KINDS[name], self.db.table(name)
        if text is None:
            table.delete(kind.key(number))
            self.model.pop((name, number), None)
        else:
            table.insert_many(kind.input({number: text}), replace=True)
            self.model[name, number] = text
        self.others_changed = True

    @precondition(lambda self: self.txn is not None)
    @rule()
    def savepoint(self) -> None:
        """Remember this state."""
        assert self.txn
        self.savepoints.append((self.txn.savepoint(), dict(self.own), list(self.own_names)))

    @precondition(lambda self: self.savepoints)
    @rule(back=st.integers(1, 3))
    def rollback_to(self, back: int) -> None:
        """Go back to an earlier state."""
        assert self.txn
        at = max(len(self.savepoints) - back, 0)
        made = self.own_names
        savepoint, self.own, self.own_names = self.savepoints[at]
        del self.savepoints[at:]
        self.txn.rollback_to(savepoint)
        for name in set(made) - set(self.own_names):
            with pytest.raises(exmapdb.NoSuchTableError):
                self.txn.table(name)

    @precondition(lambda self: self.txn is not None)
    @rule(commit=st.booleans())
    def end(self, commit: bool) -> None:
        """Commit, or roll back; only what others have changed can get in the way."""
        assert self.txn
        if commit:
            try:
                self.txn.commit()
                self.model = self.seen
                self.names += self.own_names
            except exmapdb.ConflictError:
                assert self.others_changed
        else:
            self.txn.rollback()
        self.forget_transaction()
        assert self.db.tables() == sorted(self.names)

    def forget_transaction(self) -> None:
        """As it was before one began."""
        self.txn, self.own, self.own_names = None, {}, []
        self.savepoints, self.others_changed = [], False

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
        """The number of rows is right whatever has happened: of one table after each step, by turns."""
        if self.names:
            self.steps += 1
            name = self.names[self.steps % len(self.names)]
            assert self.db.table(name).count() == sum(table == name for table, _ in self.model)


def check_tables(
    view: exmapdb.Database | exmapdb.Snapshot, model: Model, names: list[str], reverse: bool = False
) -> None:
    """Compare all tables and rows with what is to be there."""
    assert view.tables() == sorted(names)
    for name in names:
        found = [row for batch in view.table(name).scan(reverse=reverse) for row in batch.to_rows()]
        rows = [KINDS[name].row(number, text) for (table, number), text in model.items() if table == name]
        assert found == sorted(rows, reverse=reverse)


def settings_of(examples: int, steps: int) -> settings:
    """Return settings for so many runs of so many steps."""
    no_check = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=no_check
    )
