# SPDX-License-Identifier: Apache-2.0
"""Tables: frames, strict JSON, text."""

import dataclasses
import enum
import json
import math
import sys

import numpy as np
import pytest

from tf_privacy.audit import tables


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    x: float
    names: tuple[str, ...]


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def read_strictly(text):
    return json.loads(text, parse_constant=refuse_constant)


def test_frame_has_the_rows_in_order():
    frame = tables.make_frame({"name": ["b", "a"], "value": (2.5, None)})
    assert list(frame.columns) == ["name", "value"]
    assert list(frame.index) == [0, 1]
    assert frame["name"].tolist() == ["b", "a"]
    assert frame["value"][0] == 2.5 and math.isnan(frame["value"][1])


def test_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="^to_frame needs pandas") as caught:
        tables.make_frame({"a": [1]})
    assert 'pip install "tf-privacy[report]"' in str(caught.value)


@pytest.mark.parametrize("use", [tables.make_frame, tables.format_table])
def test_columns_of_unequal_length_are_refused(use):
    with pytest.raises(ValueError, match="^columns must be of one length"):
        use({"a": [1, 2], "b": [1]})


@pytest.mark.parametrize("columns", [[1, 2], {1: [2]}, {"a": "text"}, None])
def test_what_is_no_table_is_refused(columns):
    with pytest.raises(TypeError, match="^columns must be a mapping"):
        tables.format_table(columns)


def test_json_keeps_every_kind_of_value():
    value = {
        "point": Point(x=0.1 + 0.2, names=("a", "é")),
        "color": Color.RED,
        "none": None,
        "flags": [True, np.bool_(False)],
        "numpy": [np.float32(0.5), np.int64(7), np.arange(4).reshape(2, 2)],
        "zero_dimensional": np.array(3.0),
        "large": 2**70,
    }
    assert read_strictly(tables.to_json(value)) == {
        "point": {"x": 0.1 + 0.2, "names": ["a", "é"]},
        "color": "red",
        "none": None,
        "flags": [True, False],
        "numpy": [0.5, 7, [[0, 1], [2, 3]]],
        "zero_dimensional": 3.0,
        "large": 2**70,
    }


def test_json_writes_infinity_as_text():
    text = tables.to_json([math.inf, -np.inf, np.array([np.inf])], indent=None)
    assert read_strictly(text) == ["inf", "-inf", ["inf"]]
    assert "\n" not in text


@pytest.mark.parametrize(
    "value, path",
    [
        (math.nan, "value"),
        ({"a": [0.0, np.float32("nan")]}, r"value\['a'\]\[1\]"),
        (np.array([[1.0, np.nan]]), r"value\[0\]\[1\]"),
        (Point(x=math.nan, names=()), "value.x"),
    ],
)
def test_json_refuses_nan_and_names_its_place(value, path):
    with pytest.raises(ValueError, match=f"^{path} must not be NaN"):
        tables.to_json(value)


@pytest.mark.parametrize("value", [{1, 2}, 1j, object(), Point, b"bytes"])
def test_json_refuses_other_kinds_of_value(value):
    with pytest.raises(TypeError, match=r"^value\[0\] must be made of"):
        tables.to_json([value])


def test_json_refuses_keys_that_are_no_text():
    with pytest.raises(TypeError, match="^value must have text as keys"):
        tables.to_json({1: 2})


def test_text_table_is_aligned():
    text = tables.format_table(
        {
            "secret": ["pin", "card number", "x"],
            "exposure": [1.23456, 123.0, None],
            "rank": [1, 20_000_000, "1e+09"],
            "method": ["exact", "sampled", None],
        }
    )
    assert text.split("\n") == [
        "secret       exposure      rank  method",
        "-----------  --------  --------  -------",
        "pin             1.235         1  exact",
        "card number       123  20000000  sampled",
        "x                   -     1e+09  -",
    ]


def test_text_table_may_be_empty():
    assert tables.format_table({}) == ""
    assert tables.format_table({"a": [], "b": []}) == "a  b\n-  -"


def test_text_table_breaks_its_last_column_to_fit():
    columns = {"n": [1, 20], "text": ["word " * 12, "short"]}
    text = tables.format_table(columns, width=40)
    assert text.split("\n") == [
        " n  text",
        "--  ----------------------------------",
        " 1  word word word word word word word",
        "    word word word word word",
        "20  short",
    ]
    assert tables.format_table(columns, width=100) == tables.format_table(
        {"n": [1, 20], "text": [("word " * 12).strip(), "short"]}
    )
    assert max(map(len, tables.format_table(columns, width=1).split("\n"))) < 25
    assert tables.format_table({}, width=80) == ""
    long = {"a name of many words": [1]}
    assert tables.format_table(long, width=5) == tables.format_table(long)


def test_text_table_prints_no_control_characters():
    text = tables.format_table({"a\n": ["x\x1b[31m\ny", "ü"], "b": [True, 2]})
    lines = text.split("\n")
    assert len(lines) == 4 and "\x1b" not in text
    assert lines[2] == "x\N{REPLACEMENT CHARACTER}[31m" + (
        "\N{REPLACEMENT CHARACTER}y  True"
    )
