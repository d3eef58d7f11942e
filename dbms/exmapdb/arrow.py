"""Batches to and from Arrow, by way of pyarrow, which is optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exmapdb.column import Batch, Column
from exmapdb.errors import InvalidValueError, SchemaError
from exmapdb.schema import ColumnType, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["fields_of", "is_arrow", "load_pyarrow", "schema_of", "to_columns", "to_record_batch"]


def load_pyarrow() -> Any:
    """Return the module pyarrow. ImportError with what to do."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Arrow needs pyarrow: pip install 'exmap[arrow]'") from error
    return pyarrow


def is_arrow(data: object) -> bool:
    """Return whether this is a table or record batch of Arrow, of whatever library."""
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def arrow_type(kind: ColumnType) -> Any:
    """Return the type of Arrow for a column."""
    pa = load_pyarrow()
    if kind.is_decimal:
        return pa.decimal128(kind.precision, kind.scale)
    return {
        ColumnType.BOOL: pa.bool_(),
        ColumnType.BYTES: pa.binary(),
        ColumnType.INT32: pa.int32(),
        ColumnType.INT64: pa.int64(),
        ColumnType.FLOAT64: pa.float64(),
        ColumnType.TEXT: pa.utf8(),
        ColumnType.DATE: pa.date32(),
        ColumnType.TIMESTAMP: pa.timestamp("us"),
    }[kind]


def schema_of(fields: Sequence[Field]) -> Any:
    """Return the schema of Arrow for some columns."""
    pa = load_pyarrow()
    return pa.schema([pa.field(f.name, arrow_type(f.type), nullable=f.nullable) for f in fields])


def fields_of(schema: Any, key: Sequence[str]) -> list[Field]:
    """Return columns for a schema of Arrow; those of the key take no nulls. SchemaError for other types."""
    types = load_pyarrow().types
    known = (
        (types.is_boolean, ColumnType.BOOL),
        (types.is_int64, ColumnType.INT64),
        (types.is_uint32, ColumnType.INT64),
        (types.is_uint64, None),
        (types.is_integer, ColumnType.INT32),
        (types.is_floating, ColumnType.FLOAT64),
        (types.is_string, ColumnType.TEXT),
        (types.is_large_string, ColumnType.TEXT),
        (types.is_binary, ColumnType.BYTES),
        (types.is_large_binary, ColumnType.BYTES),
        (types.is_date, ColumnType.DATE),
        (types.is_timestamp, ColumnType.TIMESTAMP),
    )
    fields = []
    for field in schema:
        kind = next((kind for test, kind in known if test(field.type)), None)
        if types.is_decimal(field.type):
            kind = ColumnType.decimal(field.type.precision, field.type.scale)
        if kind is None:
            raise SchemaError(f"column {field.name!r}: no type for Arrow's {field.type}")
        fields.append(Field(field.name, kind, field.nullable and field.name not in key))
    return fields


def to_record_batch(batch: Batch, fields: Sequence[Field]) -> Any:
    """Return a record batch that shares the memory of the values, but for bools and decimals."""
    arrays = [to_array(batch[field.name]) for field in fields]
    return load_pyarrow().RecordBatch.from_arrays(arrays, schema=schema_of(fields))


def to_array(column: Column) -> Any:
    """Return an array of Arrow that shares the memory of the values, but for bools and decimals."""
    pa = load_pyarrow()
    validity = None
    if column.valid is not None:
        validity = pa.py_buffer(np.packbits(column.valid, bitorder="little"))
    buffers = [validity, pa.py_buffer(to_arrow_layout(column))]
    if column.offsets is not None:
        buffers.insert(1, pa.py_buffer(np.ascontiguousarray(column.offsets)))
    return pa.Array.from_buffers(arrow_type(column.type), len(column), buffers)


def to_arrow_layout(column: Column) -> NDArray[Any]:
    """Return the values as Arrow wants them: bools as bits, decimals in 16 bytes."""
    if column.type is ColumnType.BOOL:
        return np.packbits(column.values, bitorder="little")
    if column.type.is_decimal:
        return np.stack((column.values, column.values >> 63), axis=1)
    return column.values


def to_columns(data: Any, fields: Sequence[Field]) -> Mapping[str, Column]:
    """Return the columns of a table or record batch of Arrow, cast without loss. InvalidValueError."""
    table = load_pyarrow().table(data)
    types = {field.name: field.type for field in fields}
    unknown = [name for name in table.column_names if name not in types]
    if unknown:
        raise SchemaError(f"no column {', '.join(unknown)}")
    return {name: to_column(types[name], table.column(name)) for name in table.column_names}


def to_column(kind: ColumnType, chunked: Any) -> Column:
    """Return the column for a chunked array of Arrow. InvalidValueError."""
    pa = load_pyarrow()
    try:
        array = pa.concat_arrays(chunked.cast(arrow_type(kind)).chunks or [pa.array([], arrow_type(kind))])
    except pa.ArrowException as error:
        raise InvalidValueError(f"{chunked.type} is no {kind}: {error}") from error
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if kind.has_offsets:
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        values = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        return Column(kind, values, valid, ends)
    if kind is ColumnType.BOOL:
        bits = np.frombuffer(array.buffers()[1], np.uint8)
        taken = np.unpackbits(bits, bitorder="little")[array.offset : array.offset + len(array)]
        return Column(kind, taken.view(np.bool_), valid)
    if kind.is_decimal:
        pairs = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
        low = np.ascontiguousarray(pairs[array.offset : array.offset + len(array), 0])
        return Column(kind, low, valid)
    start = array.offset * kind.storage.itemsize
    values = np.frombuffer(array.buffers()[1], np.uint8)[start:].view(kind.storage)[: len(array)]
    return Column(kind, values, valid)
