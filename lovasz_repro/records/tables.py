"""The CSV tables of many cells, read as one: a parser's start costs more than a table's rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lovasz_repro.errors import UserError
from lovasz_repro.files import sha256
from lovasz_repro.records.stored import Stored

WHOLE = {"has_category", "tp", "fp", "fn", "tuned_tp", "tuned_fp", "tuned_fn", "step", "label"}
SHARES = {
    "iou", "tuned_iou", "oracle_iou", "object_fraction", "image_iou", "present", "absent", "miou"
}  # fmt: skip
AGAIN = "delete the result.json beside it and run the study again"

Ends = NDArray[np.int64]


def read_tables(
    stored: Stored, hashes: Mapping[str, str], columns: Sequence[str]
) -> tuple[pd.DataFrame, Ends]:
    """Tables with the same columns, one below the other.

    Args:
        hashes: the SHA-256 of each table by its path, as the `result.json` beside it says.

    Returns: the rows, and for each table how many there are up to its end.

    Raises: UserError naming the table that is not what was written, or not a table of numbers in
        their ranges.
    """
    bodies = [_body(stored, name, digest, columns) for name, digest in hashes.items()]
    ends = np.cumsum([body.count(b"\n") for body in bodies], dtype=np.int64)
    try:
        table = _parsed(b"".join(bodies), columns)
        whole = len(table) == (ends[-1] if len(ends) else 0)
    except (ValueError, OverflowError):
        whole = False
    if not whole:  # a table is malformed: which?
        for name, body in zip(hashes, bodies, strict=True):
            _check_rows(stored, name, body, columns)
        raise UserError(f"{stored.runs}: tables that cannot be read together")
    for column, good in _good(table).items():
        if not good.all():
            first = int(np.searchsorted(ends, int(np.argmin(good)), side="right"))
            raise UserError(
                f"{stored.path(list(hashes)[first])}: {_wanted(column)} in column {column}; {AGAIN}"
            )
    return table, ends


def _body(stored: Stored, name: str, digest: str, columns: Sequence[str]) -> bytes:
    """The rows of a table, without its header."""
    content = stored.read(name)
    path = stored.path(name)
    if sha256(content) != digest:
        raise UserError(
            f"{path}: truncated or edited, the result.json beside it has another SHA-256; "
            "delete that result.json and run the study again"
        )
    header, _, body = content.partition(b"\n")
    expected = ",".join(columns)
    if header != expected.encode():
        there = header.decode(errors="replace")[:1000]
        raise UserError(f"{path}: columns {there!r}, expected {expected!r}; {AGAIN}")
    if not body.endswith(b"\n") or b'"' in body:
        raise UserError(f"{path}: rows that are cut short or quoted; {AGAIN}")
    return body


def _parsed(body: bytes, columns: Sequence[str]) -> pd.DataFrame:
    """Raises: ValueError (pandas' ParserError is one) where it is no table of these columns."""
    kinds: dict[str, Any] = {
        name: str if name == "id" else np.int64 if name in WHOLE else np.float64 for name in columns
    }
    return pd.read_csv(
        io.BytesIO(body), header=None, names=list(columns), dtype=kinds, index_col=False,
        skip_blank_lines=False, na_values={n: [""] for n in columns if n != "id"},
        keep_default_na=False,
    )  # fmt: skip


def _check_rows(stored: Stored, name: str, body: bytes, columns: Sequence[str]) -> None:
    try:
        read = len(_parsed(body, columns))
    except (ValueError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{stored.path(name)}: cannot be read ({said}); {AGAIN}") from error
    if read != body.count(b"\n"):
        raise UserError(f"{stored.path(name)}: rows that are not of {len(columns)} fields; {AGAIN}")


def _good(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """By column whether each row holds what it may."""
    good: dict[str, NDArray[np.bool_]] = {}
    for column in table.columns:
        values = table[column].to_numpy()
        if column == "id":
            good[column] = table[column].str.fullmatch(r"[A-Za-z0-9_.-]{1,128}").to_numpy(bool)
        elif column in SHARES:
            good[column] = (values >= 0) & (values <= 1)
        elif column in WHOLE:
            good[column] = values >= 0
        else:
            good[column] = np.isfinite(values)
            if column == "train_loss":  # nothing was trained on yet
                good[column] |= table["step"].to_numpy() == 0
    return good


def _wanted(column: str) -> str:
    if column == "id":
        return "not an image id"
    if column in WHOLE:
        return "a number below 0"
    return "not a number in [0, 1]" if column in SHARES else "not a finite number"
