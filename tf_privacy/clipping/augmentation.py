# SPDX-License-Identifier: Apache-2.0
"""Augmentation multiplicity: several views stand for one example.

The gradients of all views of an example are averaged before the clip, so that
they cost no more privacy than one view.
"""

import dataclasses
from collections.abc import Callable

import keras
from keras import ops

from tf_privacy import _checks
from tf_privacy.clipping import keras_internals
from tf_privacy.clipping import probe_rows
from tf_privacy.clipping import row_independence
from tf_privacy.clipping.backend.graphs import graphs

_PACKAGE = "tf_privacy"


@keras.saving.register_keras_serializable(package=_PACKAGE)
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """Random views of each example, averaged before the clip.

    Attributes:
        function: A Keras layer (`keras.layers.RandomTranslation`, a Sequential
            of such) or a function, from a batch of inputs `[B, ...]` to as
            many. It must treat each row alone: MixUp and CutMix are refused.
        num_views: Views of each example in a step; >= 1.

    Source: De et al. 2022, arXiv:2204.13650, section 3.2.
    """

    function: Callable
    num_views: int

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(
                "function must be a Keras layer or a function of a batch. "
                f"Received: {self.function!r}. Example: "
                "keras.layers.RandomFlip('horizontal')."
            )
        num_views = _checks.check_integer(
            "num_views", self.num_views, at_least=1
        )
        object.__setattr__(self, "num_views", num_views)

    def make_views(self, x, y, sample_weight):
        """Returns the views of each example, one after the other.

        Args:
            x: A structure of tensors `[B, ...]`.
            y: A structure of tensors `[B, ...]`, or None.
            sample_weight: A structure of tensors `[B, ...]`, or None.

        Returns:
            The same with `[num_views * B, ...]`.

        Raises:
            ValueError: If the function mixes rows, or returns another number
                of them.
        """
        row_independence.check_function_once(self, self._apply, x)
        repeated = keras.tree.map_structure(
            lambda t: None if t is None else ops.repeat(t, self.num_views, 0),
            (x, y, sample_weight),
        )
        views = self._apply(repeated[0])
        for before, after in zip(
            keras.tree.flatten(repeated[0]),
            keras.tree.flatten(views),
            strict=True,
        ):
            if after.shape[0] != before.shape[0]:
                raise ValueError(
                    "augment must return one row for each row. Received: "
                    f"{after.shape[0]} rows for {before.shape[0]}. Let it act "
                    "on each example alone."
                )
        return views, *repeated[1:]

    @property
    def variables(self) -> list[keras.Variable]:
        """What the function reads and writes, where it is a layer."""
        if isinstance(self.function, keras.layers.Layer):
            return list(self.function.variables)
        return []

    def one_view(self, x):
        """Returns one view of each example, unchecked, outside of any graph.

        Args:
            x: A structure of arrays `[B, ...]`.
        """
        with keras_internals.InnerScope():
            return self._apply(probe_rows.as_tensors(x))

    def view_specs(self, x):
        """Returns shapes and dtypes of the views, without making any.

        Args:
            x: A structure of tensors `[B, ...]`.
        """
        specs = probe_rows.as_specs(x)
        return graphs.output_specs(self._apply, specs)

    def _apply(self, x):
        if isinstance(self.function, keras.layers.Layer):
            return self.function(x, training=True)
        return self.function(x)

    def get_config(self) -> dict:
        """Returns the arguments, the function serialised."""
        function = keras.saving.serialize_keras_object(self.function)
        return {"function": function, "num_views": self.num_views}

    @classmethod
    def from_config(cls, config):
        """Returns the augmentation that `get_config()` describes."""
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(function=function, num_views=config["num_views"])


def check_augmentation(augment) -> None:
    """Raises if an argument `augment` is neither an Augmentation nor None.

    Args:
        augment: What the caller passed.

    Raises:
        TypeError: If it is something else.
    """
    if augment is not None and not isinstance(augment, Augmentation):
        raise TypeError(
            "augment must be a tf_privacy.Augmentation or None. Received: "
            f"{augment!r}. Example: tf_privacy.Augmentation("
            'function=keras.layers.RandomFlip("horizontal"), num_views=8).'
        )
