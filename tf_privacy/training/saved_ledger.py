# SPDX-License-Identifier: Apache-2.0
"""The ledger in a file of weights, for a model that has no optimizer yet."""

import dataclasses
import io
import pathlib
import zipfile

import h5py
import numpy as np

from tf_privacy.optimizers import step_ledger

_WEIGHTS_IN_ARCHIVE = "model.weights.h5"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SavedLedger:
    """What an optimizer counted and the budget it kept to.

    Attributes:
        table: For `StepLedger.merge`.
        budget: (target_epsilon, target_delta), or None.
    """

    table: np.ndarray
    budget: tuple[float, float] | None

    def to_config(self) -> dict:
        """Returns it as JSON can hold it."""
        used = self.table[self.table[:, 0] > 0]
        return {"rows": used.tolist(), "budget": self.budget}

    @classmethod
    def from_config(cls, config: dict) -> "SavedLedger":
        """Returns it from `to_config()`."""
        budget = config["budget"]
        table = np.zeros(step_ledger.StepLedger.table_shape())
        if config["rows"]:
            table[: len(config["rows"])] = config["rows"]
        return cls(table=table, budget=tuple(budget) if budget else None)


def read_ledger(path) -> SavedLedger | None:
    """Returns the ledger that was saved with a model's weights.

    Args:
        path: Of a `.weights.h5` or `.keras` file.

    Returns:
        A SavedLedger, or None if the file holds none.
    """
    path = pathlib.Path(path)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            if _WEIGHTS_IN_ARCHIVE not in archive.namelist():
                return None
            content = io.BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE))
        with h5py.File(content, "r") as file:
            return _find(file)
    if path.suffix != ".h5" or not path.is_file():
        return None
    with h5py.File(path, "r") as file:
        return _find(file)


def _find(file):
    found = []

    def visit(name, item):
        if (
            name.rsplit("/", 1)[-1] == "ledger"
            and isinstance(item, h5py.Dataset)
            and "budget" in item.parent
        ):
            step_ledger.check_table(np.array(item))
            epsilon, delta = (float(v) for v in item.parent["budget"])
            found.append(
                SavedLedger(
                    table=np.array(item),
                    budget=(epsilon, delta) if delta > 0.0 else None,
                )
            )

    file.visititems(visit)
    return found[0] if found else None
