# SPDX-License-Identifier: Apache-2.0
"""Which rows of an embedding table enough units look up (DP-AdaFEST).

Ordinary noise falls on every row of a table, looked up or not. Here each step
first counts, with noise, how many units look each row up; rows whose count
stays below a threshold get neither gradient nor noise in that step.
"""

import dataclasses

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import keras_internals

_PACKAGE = "tf_privacy"


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True)
class RowSelection:
    """Updates only rows of embedding tables that enough units look up.

        count[r] = sum over units of 1[r is looked up] / sqrt(rows of the unit)
        selected = count + noise >= threshold
    One unit moves all counts together by at most 1, in L2 norm. Of the budget
    that the optimizer's noise_multiplier z stands for, `budget_fraction` is
    spent on the counts and the rest on the gradients:

        counts: z / sqrt(budget_fraction)
        gradients: z / sqrt(1 - budget_fraction)
    so that both together are one Gaussian mechanism of noise multiplier z.

    Attributes:
        threshold: Of the noised count; a row with no unit is selected where
            the noise alone passes it. Near 0 keeps half of all rows.
        budget_fraction: Part of 1 / z^2 that the counts take; in (0, 1).
            Small: the counts get little of the budget, so much noise.

    Source: Ghazi et al. 2023, arXiv:2311.08357, algorithm 1 (there the rows
        are selected before the clip; here after it, which is the same
        mechanism followed by a projection).
    """

    threshold: float
    budget_fraction: float

    def __post_init__(self):
        checked = {
            "threshold": _checks.check_real(
                "threshold", self.threshold, at_least=-1e15, at_most=1e15
            ),
            "budget_fraction": _checks.check_real(
                "budget_fraction", self.budget_fraction, above=0.0, below=1.0
            ),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def get_config(self) -> dict:
        """Returns the fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        """Returns the selection that `get_config()` describes."""
        return cls(**config)


def find_tables(model) -> list:
    """Returns the trainable variables of a model whose rows are counted.

    Args:
        model: A built `keras.Model`.

    Raises:
        ValueError: If it has none.
    """
    own = {
        id(layer._embeddings)
        for layer in keras_internals.flatten_layers(model)
        if keras_internals.uses_own_call(layer, keras.layers.Embedding)
    }
    # In the order of the variables, in which sums over pieces are laid out.
    tables = [v for v in model.trainable_variables if id(v) in own]
    if not tables:
        raise ValueError(
            "model must have a trainable keras.layers.Embedding where rows are "
            f"selected. Received: none in {model.name!r}. Leave row_selection "
            "out."
        )
    return tables


def check_no_tables(tables, reason: str) -> None:
    """Raises if rows were to be counted where no layer can be looked into.

    Args:
        tables: From `find_tables`, or none.
        reason: Why examples go through the model one at a time.

    Raises:
        ValueError: If there are tables.
    """
    if tables:
        raise ValueError(
            "row_selection must have a model whose embeddings can be tapped. "
            f"Received: one that goes one example at a time: {reason} Leave "
            "row_selection out."
        )


def align(counts, tables, variables) -> tuple:
    """Returns counts for `ClippedSum.row_counts`.

    Args:
        counts: One for each table.
        tables: From `find_tables`.
        variables: The ClippedSum's.
    """
    if not tables:
        return ()
    by_id = {id(t): c for t, c in zip(tables, counts, strict=True)}
    return tuple(by_id.get(id(variable)) for variable in variables)


def count_rows(tables, terms, present) -> list:
    """Returns how many units look each row of each table up, in part.

    Args:
        tables: From `find_tables`.
        terms: Dict from the id of a variable to its term.
        present: `[U]` bool; units that count.

    Returns:
        For each table, `[V]` float32; removing or adding one unit moves all of
        them together by at most 1, in L2 norm.

    Raises:
        ValueError: If a table is used otherwise than by looking rows up.
    """
    lookups = []
    for table in tables:
        term = terms.get(id(table))
        if term is not None and not isinstance(term, gradient_terms.Gather):
            raise ValueError(
                "row_selection must have tables that are only looked up. "
                f"Received: {table.path!r}, which is used in another way too "
                "(tied weights). Leave row_selection out."
            )
        lookups.append(term)
    marks = [None if t is None else _mark_first(t.indices) for t in lookups]
    sizes = sum(ops.sum(mark, axis=1) for mark in marks if mark is not None)
    shares = ops.where(present, 1.0 / ops.sqrt(ops.maximum(sizes, 1.0)), 0.0)
    return [
        ops.zeros((table.shape[0],), "float32")
        if mark is None
        else ops.segment_sum(
            ops.reshape(mark * shares[:, None], (-1,)),
            ops.reshape(lookup.indices, (-1,)),
            num_segments=table.shape[0],
        )
        for table, lookup, mark in zip(tables, lookups, marks, strict=True)
    ]


def _mark_first(indices):
    """Returns `[U, T]` float32: 1 where a unit's row comes for the first time.

    Args:
        indices: `[U, T]` integer.
    """
    order = ops.argsort(indices, axis=1)
    ordered = ops.take_along_axis(indices, order, axis=1)
    is_new = ops.concatenate(
        [
            ops.ones_like(ordered[:, :1], dtype="bool"),
            ops.not_equal(ordered[:, 1:], ordered[:, :-1]),
        ],
        axis=1,
    )
    places = ops.argsort(order, axis=1)
    return ops.cast(ops.take_along_axis(is_new, places, axis=1), "float32")
