"""The file formats of bundles: parquet rows for queries, npz arrays in a tar for programs, named files in a tar.

Equal input gives equal bytes. Stock tools open all: pyarrow, DuckDB and pandas read the parquet; webdataset the tars,
and numpy, with `allow_pickle=False`, the npz in them.
"""

import functools
import io
import itertools
import json
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.errors import BundleError, ShardError
from infra.shards.shards import add_member, split_name
from infra.zip_files import write_zip

Scalar: TypeAlias = str | int | float | bool | None
Row: TypeAlias = Mapping[str, Scalar | NDArray[Any]]

ROW_GROUP = 2048
"""Rows per group of a parquet file: a query skips those whose statistics exclude its rows."""
TENSORS_KEY = "tensors"
"""The schema metadata entry with dtype and shape of each tensor column as JSON: most readers see flat lists."""

_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_TAR_END = 2 * tarfile.BLOCKSIZE
"""Every tar ends with this number of zeros, or more."""
_parsing = threading.Lock()
"""numpy reads headers with `ast`, which sometimes raises SystemError if several threads parse at once
(https://github.com/python/cpython/issues/106905; Python 3.11)."""


@dataclass(frozen=True)
class Tensor:
    """The type of a column of arrays with one dtype and shape."""

    dtype: str
    shape: tuple[int, ...]


ColumnType: TypeAlias = type[bool] | type[int] | type[float] | type[str] | Tensor


def write_rows(
    rows: Sequence[Row], metadata: Mapping[str, str], columns: Mapping[str, ColumnType] | None = None
) -> bytes:
    """Return rows as a parquet file. Scalars that are None and missing tensors are null.

    `columns` states the types of some or all columns, so that files agree even where all values are null or there are
    no rows; the types of the others follow from the rows. Raises `BundleError` if a row or value does not fit.
    """
    kinds = _column_types(rows, columns or {})
    for number, row in enumerate(rows):
        if row.keys() != kinds.keys():
            raise BundleError(
                f"row {number} has columns {sorted(row)}, expected {sorted(kinds)}; missing values are None"
            )
    tensors = {name: kind for name, kind in kinds.items() if isinstance(kind, Tensor)}
    stated = {name: {"dtype": kind.dtype, "shape": kind.shape} for name, kind in tensors.items()}
    arrays = [_column([row[name] for row in rows], name, kind) for name, kind in kinds.items()]
    return _parquet(list(kinds), arrays, list(tensors), {**metadata, TENSORS_KEY: json.dumps(stated, sort_keys=True)})


def read_rows(data: bytes, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a parquet file, all columns or some; tensors come as arrays of their shape and dtype.

    Raises `BundleError` if this is not a parquet file or lacks a column.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        unknown = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if unknown:
            raise BundleError(f"the rows have no columns {unknown}; they have {file.schema_arrow.names}")
        table = file.read(columns=None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise BundleError(f"not a whole parquet file ({len(data)} bytes): {error}") from error
    read = {name: _values(table.column(name)) for name in table.column_names}
    return [{name: values[number] for name, values in read.items()} for number in range(table.num_rows)]


def read_table(data: bytes, columns: Collection[str] | None = None, without: Collection[str] = ()) -> pa.Table:
    """Return the rows of a parquet file as columns without tensors: all, or those of some names that it has.

    Columns named in `without` are not read.

    Raises `BundleError` if this is not a parquet file. Reads on the calling thread alone, as one of several.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        scalars = (field for field in file.schema_arrow if not isinstance(field.type, pa.FixedShapeTensorType))
        names = [f.name for f in scalars if f.name not in without and (columns is None or f.name in columns)]
        return file.read(columns=names, use_threads=False)
    except pa.ArrowException as error:
        raise BundleError(f"not a whole parquet file ({len(data)} bytes): {error}") from error


def write_table(columns: Mapping[str, pa.Array], metadata: Mapping[str, str]) -> bytes:
    """Return columns without tensors as `write_rows` writes their rows, to the byte."""
    return _parquet(list(columns), list(columns.values()), (), {**metadata, TENSORS_KEY: "{}"})


@dataclass(frozen=True)
class Place:
    """Where the content of a member is in its tar, in bytes."""

    offset: int
    size: int


def write_arrays(items: Iterable[tuple[str, Mapping[str, NDArray[Any]]]], suffix: str) -> bytes:
    """Return a tar with one member `KEY.SUFFIX.npz` for each item, in their order.

    Raises `BundleError` if a key would not survive webdataset's naming rule, or an array holds Python objects.
    """
    return write_files((key, {f"{suffix}.npz": write_npz(arrays, key)}) for key, arrays in items)


def write_files(items: Iterable[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """Return a tar with a member `KEY.NAME` for each named file of each item, in their order: a WebDataset shard.

    Raises `BundleError` if a key or name would not survive webdataset's naming rule.
    """
    return write_tar(items)[0]


def write_tar(items: Iterable[tuple[str, Mapping[str, bytes]]]) -> tuple[bytes, dict[tuple[str, str], Place]]:
    """Return the tar of `write_files`, and the place of each member by key and name."""
    sink, places = io.BytesIO(), dict[tuple[str, str], Place]()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for key, files in items:
            for name, content in files.items():
                try:
                    add_member(archive, key, name, content)
                except ShardError as error:
                    raise BundleError(str(error)) from error
                padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                places[key, name] = Place(sink.tell() - padded, len(content))
    return sink.getvalue(), places


def read_files(
    data: bytes, wanted: Callable[[str], bool] = lambda _key: True
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and named files of each item, or of those whose key is wanted.

    Raises `BundleError` if this is not a whole tar of such members.
    """
    for key, members in itertools.groupby(_members(data), key=lambda member: member[0]):
        if wanted(key):
            yield key, {name: read() for _, name, read in members}


def read_arrays(
    data: bytes, wanted: Callable[[str], bool] = lambda _key: True, names: Container[str] | None = None
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield key and arrays of each member, or of those with a selected key; all arrays, or the named ones.

    Files that follow a sample's npz, such as pictures, are skipped. Raises `BundleError` if this is not a whole tar of
    npz files.
    """
    for key, members in itertools.groupby(_members(data), key=lambda member: member[0]):
        _, name, read = next(members)
        if not name.endswith(".npz"):
            raise BundleError(f"member {key}.{name} is not a KEY.SUFFIX.npz; this tar was not written as a bundle")
        if wanted(key):
            try:
                yield key, read_npz(read(), names)
            except BundleError as error:
                raise BundleError(f"not a whole tar of npz files ({len(data)} bytes): {key}.{name}: {error}") from error


def read_npz(data: bytes, names: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return all arrays of an npz, or the named ones, like `numpy.load`; raise `BundleError` if it is not whole."""
    try:
        return _arrays(data, names)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise BundleError(f"not a whole npz ({len(data)} bytes): {error}") from error


def _members(data: bytes) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Yield the members of a tar: key, what follows it in the name, and the function that reads the content."""

    def read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
        with _whole(data), archive.extractfile(info) or io.BytesIO() as content:
            return content.read()

    require_end(data)
    with _whole(data), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            split = split_name(info.name)
            if split is None or not info.isfile():
                raise BundleError(f"member {info.name!r} is not a KEY.NAME; this tar was not written as a bundle")
            yield *split, functools.partial(read, archive, info)


def require_end(data: bytes) -> None:
    """Raise `BundleError` unless a tar has its end: readers take a cut between two members for one."""
    if len(data) < _TAR_END or data[-_TAR_END:].strip(b"\0"):
        raise BundleError(f"not a whole tar ({len(data)} bytes): it has no end")


@contextmanager
def _whole(data: bytes) -> Iterator[None]:
    """Turn the errors of a tar that is not whole into `BundleError`."""
    try:
        yield
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise BundleError(f"not a whole tar ({len(data)} bytes): {error}") from error


def _parquet(
    names: Sequence[str], arrays: Sequence[pa.Array], tensors: Collection[str], metadata: Mapping[str, str]
) -> bytes:
    schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)], metadata)
    scalars = [name for name in names if name not in tensors]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        sink,
        compression="zstd",
        use_dictionary=scalars or False,
        write_statistics=scalars or False,
        row_group_size=ROW_GROUP,
    )
    return sink.getvalue()


def _arrays(npz: bytes, names: Container[str] | None) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz, or the named ones, like `numpy.load`."""
    loaded: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if names is None or name in names:
                data = archive.read(member)
                with _parsing:
                    loaded[name] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return loaded


def write_npz(arrays: Mapping[str, NDArray[Any]], key: str = "") -> bytes:
    """Return an npz like `numpy.savez_compressed`, with fixed times; raise `BundleError` for Python objects."""
    members = list[tuple[str, bytes]]()
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise BundleError(f"array {name!r} of {key!r} holds Python objects; bundles hold numbers only")
        sink = io.BytesIO()
        np.lib.format.write_array(sink, np.asanyarray(array), allow_pickle=False)
        members.append((f"{name}.npy", sink.getvalue()))
    try:
        return write_zip(members)
    except ValueError as error:
        raise BundleError(f"the arrays of {key!r} are too large: {error}") from error


def _column_types(rows: Sequence[Row], stated: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Return each column's type: as stated, or from its values; str where all are None."""
    names = dict.fromkeys([*(rows[0] if rows else ()), *stated])
    return {name: stated.get(name) or _infer([row.get(name) for row in rows], name) for name in names}


def _infer(values: Sequence[Scalar | NDArray[Any]], name: str) -> ColumnType:
    kinds = {kind: None for value in values if (kind := _kind_of(value, name)) is not None}
    if set(kinds) == {int, float}:
        return float
    if len(kinds) > 1:
        raise BundleError(f"column {name!r} mixes {', '.join(map(str, kinds))}; give every row the same type and shape")
    return next(iter(kinds), str)


def _kind_of(value: Scalar | NDArray[Any], name: str) -> ColumnType | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim:
        if value.dtype.kind not in "biuf":
            raise BundleError(f"column {name!r} holds an array of {value.dtype}; tensor columns hold real numbers")
        return Tensor(value.dtype.name, value.shape)
    for kind in (bool, int, float, str):
        if isinstance(_plain(value), kind):
            return kind
    raise BundleError(
        f"column {name!r} holds a {type(value).__name__}; rows hold str, int, float, bool, None and arrays"
    )


def _plain(value: Scalar | NDArray[Any]) -> Any:  # noqa: ANN401  # whatever numpy's scalar holds
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


def _arrow_type(kind: ColumnType) -> pa.DataType:
    if isinstance(kind, Tensor):
        return pa.fixed_shape_tensor(pa.from_numpy_dtype(kind.dtype), kind.shape)
    return _ARROW_TYPES[kind]


def _column(values: Sequence[Scalar | NDArray[Any]], name: str, kind: ColumnType) -> pa.Array:
    for number, value in enumerate(values):
        held = _kind_of(value, name)
        if held not in (None, kind) and (held, kind) != (int, float):
            raise BundleError(f"column {name!r} of row {number} is {held}, expected {kind}")
    if isinstance(kind, Tensor):
        return _tensor_column(values, kind)
    try:
        return pa.array([_plain(value) for value in values], _ARROW_TYPES[kind])
    except (pa.ArrowException, OverflowError) as error:
        raise BundleError(f"column {name!r} holds a value that is not a 64-bit {kind.__name__}: {error}") from error


def _tensor_column(values: Sequence[Scalar | NDArray[Any]], kind: Tensor) -> pa.Array:
    """Return arrays as a tensor column; rows without one are null."""
    size = int(np.prod(kind.shape))
    flat = np.zeros((len(values), size), kind.dtype)
    for number, value in enumerate(values):
        if value is not None:
            flat[number] = np.asarray(value).reshape(-1)
    missing = pa.array([value is None for value in values], pa.bool_())
    storage = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), size, mask=missing)
    return pa.ExtensionArray.from_storage(_arrow_type(kind), storage)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not isinstance(column.type, pa.FixedShapeTensorType):
        return list(column.to_pylist())
    storage = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    present = storage.drop_null().combine_chunks()
    numbers = present.flatten().to_numpy(zero_copy_only=False)
    tensors = iter(numbers.reshape(len(present), *column.type.shape))
    return [next(tensors) if valid else None for valid in storage.is_valid().to_pylist()]
