# SPDX-License-Identifier: Apache-2.0
"""Columns of results as a data frame, as strict JSON, as text to read.

A table is a mapping from a column's name to its cells, all of one length.
pandas is loaded on use.
"""

import dataclasses
import enum
import importlib
import json
import math
import numbers
import re
import textwrap
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

_NUMBER = re.compile(r"|-|[+-]?(inf|\d[\d.,]*(e[+-]?\d+)?%?)")
_GAP = "  "
_LEAST_WIDTH = 20


def load_extra(name: str, *, needed_for: str):
    """Returns a module of the optional packages, imported on use.

    Args:
        name: The module's full name, such as "matplotlib.figure".
        needed_for: What the caller wants it for; begins the message.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{needed_for} needs {name.partition('.')[0]}. Received: no such "
            'package. Run pip install "tf-privacy[report]".'
        ) from error


def check_columns(columns: Mapping[str, Sequence]) -> dict[str, list]:
    """Returns the table as lists once all columns have one length.

    Args:
        columns: Name to cells; the names are strings.

    Returns:
        The same, each column a new list.

    Raises:
        TypeError: If it is no mapping from strings, or a column is one string.
        ValueError: If two columns differ in length.
    """
    if not isinstance(columns, Mapping) or not all(
        isinstance(name, str) and not isinstance(cells, str)
        for name, cells in columns.items()
    ):
        raise TypeError(
            "columns must be a mapping from names to lists of cells. Received: "
            f"{columns!r}."
        )
    table = {name: list(cells) for name, cells in columns.items()}
    lengths = {name: len(cells) for name, cells in table.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"columns must be of one length. Received lengths: {lengths}. Use "
            "None for a cell without a value."
        )
    return table


def get_columns(table: Any) -> dict[str, list]:
    """Returns the columns of a table in any of the forms a result may have.

    Args:
        table: A mapping of columns; or an object whose `columns`, or what the
            method `columns()` returns, is one; or one with `to_frame()`.

    Returns:
        Name to cells, all of one length.

    Raises:
        TypeError: If it is none of these.
        ValueError: If two columns differ in length.
    """
    if isinstance(table, Mapping):
        return check_columns(table)
    columns = getattr(table, "columns", None)
    if callable(columns):
        columns = columns()
    if isinstance(columns, Mapping):
        return check_columns(columns)
    if not hasattr(table, "to_frame"):
        raise TypeError(
            "table must be a mapping of columns, or have columns or to_frame. "
            f"Received: {type(table).__name__}."
        )
    return table.to_frame().to_dict("list")


def make_frame(columns: Mapping[str, Sequence]):
    """Returns the table as a `pandas.DataFrame`, rows in the order given.

    Args:
        columns: Name to cells, all of one length.

    Returns:
        A new data frame with the index 0, 1, 2, ...

    Raises:
        ImportError: If pandas is not installed.
        TypeError: If `columns` is not a mapping from strings to lists.
        ValueError: If two columns differ in length.
    """
    table = check_columns(columns)
    pandas = load_extra("pandas", needed_for="to_frame")
    return pandas.DataFrame(table)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Returns a value as strict JSON, which every reader understands.

    JSON has no infinity: inf becomes the text "inf", -inf "-inf". A NaN is no
    result and is refused, with its place. Tuples, lists and arrays become
    lists; dataclasses become objects of their fields; enums their values.
    Floats keep every digit.

    Args:
        value: Nested dataclasses, mappings with string keys, sequences, numpy
            arrays and scalars, enums, strings, numbers, bools and None.
        indent: Spaces for each level; None writes one line.

    Returns:
        The text.

    Raises:
        TypeError: If something in it is none of these.
        ValueError: If a number in it is NaN.
    """
    plain = make_plain(value)
    return json.dumps(plain, indent=indent, allow_nan=False)


def make_plain(value: Any, *, path: str = "value"):
    """Returns what `to_json` writes, before it is text.

    Args:
        value: As for `to_json`.
        path: Its place in the whole, for messages.

    Returns:
        Nested dicts, lists, strings, ints, floats, bools and None.

    Raises:
        TypeError: If something in it cannot be written.
        ValueError: If a number in it is NaN.
    """
    if isinstance(value, enum.Enum):
        return make_plain(value.value, path=path)
    if value is None or isinstance(value, str | bool | np.bool_):
        return bool(value) if isinstance(value, np.bool_) else value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _make_plain_float(float(value), path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {
            name: make_plain(getattr(value, name), path=f"{path}.{name}")
            for name in names
        }
    if isinstance(value, Mapping):
        return _make_plain_mapping(value, path)
    if isinstance(value, np.ndarray):
        value = value.tolist()
        if not isinstance(value, list):
            return make_plain(value, path=path)
    if isinstance(value, list | tuple):
        return [
            make_plain(each, path=f"{path}[{index}]")
            for index, each in enumerate(value)
        ]
    raise TypeError(
        f"{path} must be made of dataclasses, mappings, sequences, numbers, "
        f"text and None. Received: {type(value).__name__}."
    )


def _make_plain_float(number: float, path: str) -> float | str:
    if math.isnan(number):
        raise ValueError(
            f"{path} must not be NaN. Received: nan. Use None for a number "
            "that does not exist."
        )
    return number if math.isfinite(number) else str(number)


def _make_plain_mapping(mapping: Mapping, path: str) -> dict:
    for key in mapping:
        if not isinstance(key, str):
            raise TypeError(
                f"{path} must have text as keys. Received: {key!r}."
            )
    return {
        key: make_plain(each, path=f"{path}[{key!r}]")
        for key, each in mapping.items()
    }


def format_cell(cell: Any) -> str:
    """Returns a cell as text: four digits, "-" for None, one line.

    Numbers are rounded to nearest: pass a bound as text, rounded to its side.
    Whatever a terminal would not print as a character (an escape, a line
    break) is shown as U+FFFD.

    Args:
        cell: A number, text, bool or None.
    """
    if cell is None:
        return "-"
    if isinstance(cell, numbers.Real) and not isinstance(
        cell, bool | numbers.Integral
    ):
        return f"{float(cell):.4g}"
    text = str(cell)
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def format_table(
    columns: Mapping[str, Sequence], *, width: int | None = None
) -> str:
    """Returns the table as lines of text, columns aligned, names on top.

    Columns of numbers are flush right, of anything else flush left. A table
    without rows is its heading alone; one without columns is empty text.

    Args:
        columns: Name to cells, all of one length; cells as for `format_cell`.
        width: Columns of the terminal, for which long cells of the last column
            are broken into lines (of 20 characters or more); None for never.

    Returns:
        Lines joined by line breaks, without one at the end.

    Raises:
        TypeError: If `columns` is not a mapping from strings to lists.
        ValueError: If two columns differ in length.
    """
    table = [
        [format_cell(cell) for cell in [name, *cells]]
        for name, cells in check_columns(columns).items()
    ]
    if width is not None and table:
        table = _break_last_cells(table, width)
    aligned = []
    for heading, *texts in table:
        align = str.rjust if _are_numbers(texts) else str.ljust
        most = max(map(len, [heading, *texts]))
        texts = [heading, "-" * most, *texts]
        aligned.append([align(text, most) for text in texts])
    rows = zip(*aligned, strict=True)
    return "\n".join(_GAP.join(row).rstrip() for row in rows)


def _break_last_cells(table: list[list[str]], width: int) -> list[list[str]]:
    """Returns the columns, a row longer by each line that a last cell needs."""
    *firsts, last = table
    taken = sum(max(map(len, texts)) + len(_GAP) for texts in firsts)
    heading, *texts = last
    broken = [[heading]] + [
        textwrap.wrap(text, max(_LEAST_WIDTH, width - taken)) or [""]
        for text in texts
    ]
    spread = [
        [
            part
            for text, lines in zip(texts, broken, strict=True)
            for part in [text, *[""] * (len(lines) - 1)]
        ]
        for texts in firsts
    ]
    return [*spread, [line for lines in broken for line in lines]]


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts)
