"""The parquet files of a dataset: rows of data, episodes, tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.telemetry.dataset.layout import partial_path, replace
from molmoact2_edge.telemetry.extras import arrow

_COMPRESSION = "snappy"
# pandas keeps an index without a name in a column of this name.
_UNNAMED_INDEX = "__index_level_0__"


def data_table(columns: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return rows as LeRobot has them: vectors as lists of fixed size, everything of size 1 as a plain number."""
    pa = arrow()
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 2 and values.shape[1] > 1:
            flat = pa.array(np.ascontiguousarray(values).ravel())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pa.array(values.ravel())
    return pa.table(arrays)


def episode_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return episodes as a table; arrays become nested lists."""
    pa = arrow()
    plain = [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(plain)


def task_table(tasks: Sequence[str]) -> Any:
    """Return the tasks as the table that pandas reads as a frame with the texts as its index."""
    pa = arrow()
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), _UNNAMED_INDEX: pa.array(tasks)})
    described = {
        "index_columns": [_UNNAMED_INDEX],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
             "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
             "metadata": None},
            {"name": None, "field_name": _UNNAMED_INDEX, "pandas_type": "unicode", "numpy_type": "object",
             "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }  # fmt: skip
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def read_tasks(path: Path) -> list[str]:
    """Return the tasks in the order of their numbers."""
    pq = arrow().parquet
    table = pq.read_table(path)
    (texts,) = (name for name in table.column_names if name != "task_index")
    pairs = zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True)
    return [text for _, text in sorted(pairs)]


def write_table(table: Any, path: Path) -> None:
    """Write a parquet file as a whole or not at all."""
    pq = arrow().parquet
    partial = partial_path(path)
    pq.write_table(table, partial, compression=_COMPRESSION, use_dictionary=True)
    replace(partial, path)


def write_with(table: Any, path: Path, *, appended: bool) -> None:
    """Write ``table`` to ``path``, behind the rows that are there where ``appended``."""
    pa = arrow()
    if appended:
        # A column that was null so far has no type of its own yet.
        table = pa.concat_tables([pa.parquet.read_table(path), table], promote_options="default")
    write_table(table, path)


def keep_rows_below(path: Path, column: str, limit: int) -> int:
    """Take out the rows of a file whose ``column`` is ``limit`` or more; returns how many are left.

    A file without a row left is removed.
    """
    pa = arrow()
    table = pa.parquet.read_table(path)
    kept = table.filter(pa.compute.less(table[column], limit))
    if kept.num_rows == 0:
        path.unlink()
    elif kept.num_rows < table.num_rows:
        write_table(kept, path)
    return int(kept.num_rows)


def last_row(path: Path) -> dict[str, Any]:
    """Return the last row of a file."""
    pq = arrow().parquet
    table = pq.read_table(path)
    row: dict[str, Any] = table.slice(table.num_rows - 1).to_pylist()[0]
    return row
