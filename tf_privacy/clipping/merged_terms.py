# SPDX-License-Identifier: Apache-2.0
"""One term for all uses of one variable.

The norm of a sum is not the sum of the norms: terms of a variable that is used
twice (shared layers, tied weights) are merged before the norm is taken.
"""

from keras import ops

from tf_privacy.clipping import gradient_terms
from tf_privacy.clipping import round_off


def merge_terms(terms):
    """Returns one term for the sum of all `terms` of one variable.

    Terms of one kind become one with a longer position axis. A table that is
    both looked up and multiplied with (tied input and output embeddings) keeps
    its two forms: no `[B, V, D]` stack is made. All else is instantiated.

    Args:
        terms: A list of terms, all of one variable.
    """
    merged = []
    for term in terms:
        for i, other in enumerate(merged):
            if type(other) is type(term) and hasattr(other, "merged"):
                merged[i] = other.merged(term)
                break
        else:
            merged.append(term)
    if len(merged) == 1:
        return merged[0]
    lookups = [t for t in merged if isinstance(t, gradient_terms.Gather)]
    others = [t for t in merged if not isinstance(t, gradient_terms.Gather)]
    rest = others[0] if len(others) == 1 else _instantiated_sum(others)
    return LookupSum(lookups[0], rest) if lookups else rest


def _instantiated_sum(terms):
    return gradient_terms.Instantiated(sum(t.instantiate() for t in terms))


class LookupSum(gradient_terms.Term):
    """Gradients of a table that was looked up and used in another way too.

        |a + b|^2 = |a|^2 + 2 a . b + |b|^2
    where `a` is zero outside of the rows that were looked up.

    Args:
        lookup: A Gather.
        other: Another term of the same variable.
    """

    def __init__(self, lookup, other):
        self._lookup = lookup
        self._other = other

    def squared_norms(self):
        """Returns `[B]` float32, never below the true squared norms."""
        lookup = self._lookup.squared_norms()
        other = self._other.squared_norms()
        inner = self._lookup.inner_products(self._other)
        total = lookup + 2.0 * inner + other
        largest = ops.square(ops.sqrt(lookup) + ops.sqrt(other))
        summed = lookup + 2.0 * ops.abs(inner) + other
        return round_off.with_round_off(
            total, summed, largest, self._lookup.num_products
        )

    def weighted_sum(self, factors, keep=None):
        """Returns `sum_b factors[b] * gradients[b]`, of the variable's shape.

        Args:
            factors: `[B]` float32.
            keep: `[B]` bool or None, as for the other terms.
        """
        return self._lookup.weighted_sum(
            factors, keep
        ) + self._other.weighted_sum(factors, keep)

    def instantiate(self):
        """Returns the gradients, `[B, V, D]`: large."""
        return self._lookup.instantiate() + self._other.instantiate()

    def joined(self, count: int) -> "LookupSum":
        """Returns the sums of each `count` consecutive gradients."""
        return LookupSum(self._lookup.joined(count), self._other.joined(count))

    def cost(self) -> gradient_terms.Cost:
        """Returns the sum of both costs."""
        costs = self._lookup.cost(), self._other.cost()
        return gradient_terms.Cost(
            form=" + ".join(cost.form for cost in costs),
            multiplications=sum(cost.multiplications for cost in costs),
            stored=sum(cost.stored for cost in costs),
        )
