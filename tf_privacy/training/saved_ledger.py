# SPDX-License-Identifier: Apache-2.0
"""The ledger in a file of weights, for a model that has no optimizer yet."""

import io
import pathlib
import zipfile

import h5py
import numpy as np

from tf_privacy.optimizers import step_ledger

_WEIGHTS_IN_ARCHIVE = "model.weights.h5"


def read_ledger(path) -> np.ndarray | None:
    """Returns the ledger table that was saved with a model's weights.

    Args:
        path: Of a `.weights.h5` or `.keras` file.

    Returns:
        A table for `StepLedger.merge`, or None if the file holds none.
    """
    path = pathlib.Path(path)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            if _WEIGHTS_IN_ARCHIVE not in archive.namelist():
                return None
            content = io.BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE))
        with h5py.File(content, "r") as file:
            return _find_table(file)
    if path.suffix != ".h5" or not path.is_file():
        return None
    with h5py.File(path, "r") as file:
        return _find_table(file)


def _find_table(file):
    tables = []

    def visit(name, item):
        if (
            name.rsplit("/", 1)[-1] == "ledger"
            and isinstance(item, h5py.Dataset)
            and item.shape == step_ledger.StepLedger.table_shape()
        ):
            tables.append(np.array(item))

    file.visititems(visit)
    return tables[0] if tables else None
