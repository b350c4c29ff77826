"""Read the CSV tables of many cells at once: starting a parser costs more than a table's rows."""

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
"""The advice for a damaged table."""


def read_tables(
    stored: Stored, hashes: Mapping[str, str], columns: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Tables with the same columns, one below the other.

    Args:
        hashes: the SHA-256 of each table by its path, as the `result.json` beside it says.

    Returns: the rows, and the number of rows of each table.

    Raises: UserError naming a table that has another hash, is malformed, or holds a wrong value.
    """
    bodies = [_body(stored, name, digest, columns) for name, digest in hashes.items()]
    rows = np.array([body.count(b"\n") for body in bodies], np.int64)
    try:
        table = _parsed(b"".join(bodies), columns)
        whole = len(table) == rows.sum()
    except (ValueError, OverflowError):
        whole = False
    if not whole:  # a table is malformed: which?
        for name, body in zip(hashes, bodies, strict=True):
            path = stored.path(name)
            try:
                read = len(_parsed(body, columns))
            except (ValueError, OverflowError) as error:
                said = " ".join(str(error).split())
                raise UserError(f"{path}: cannot be read ({said}); {AGAIN}") from error
            if read != body.count(b"\n"):
                raise UserError(f"{path}: rows that are not of {len(columns)} fields; {AGAIN}")
        raise UserError(f"{stored.runs}: tables that cannot be read together")
    for column in columns:
        good, wrong = _checked(table, column)
        if not good.all():
            place = np.searchsorted(np.cumsum(rows), np.argmin(good), side="right")
            path = stored.path(list(hashes)[int(place)])
            raise UserError(f"{path}: {wrong} in column {column}; {AGAIN}")
    return table, rows


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
    """Raises: ValueError (pandas' ParserError is one) if it is not a table of these columns."""
    kinds: dict[str, Any] = {
        name: str if name == "id" else np.int64 if name in WHOLE else np.float64 for name in columns
    }
    return pd.read_csv(
        io.BytesIO(body), header=None, names=list(columns), dtype=kinds, index_col=False,
        skip_blank_lines=False, na_values={n: [""] for n in columns if n != "id"},
        keep_default_na=False,
    )  # fmt: skip


def _checked(table: pd.DataFrame, column: str) -> tuple[NDArray[np.bool_], str]:
    """Whether each row of a column is valid, and the description of one that is not."""
    values = table[column].to_numpy()
    if column == "id":
        good = table[column].str.fullmatch(r"[A-Za-z0-9_.-]{1,128}").to_numpy(bool)
        return good, "not an image id"
    if column in SHARES:
        return (values >= 0) & (values <= 1), "not a number in [0, 1]"
    if column in WHOLE:
        return values >= 0, "a number below 0"
    good = np.isfinite(values)
    if column == "train_loss":  # nothing was trained on yet
        good |= table["step"].to_numpy() == 0
    return good, "not a finite number"
