# SPDX-License-Identifier: Apache-2.0
"""What one step releases: the noised sum, and the query that moves the clip."""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import clipped_sum
from tf_privacy.clipping import moving_clips
from tf_privacy.clipping import row_selection as row_selection_module
from tf_privacy.clipping import styles
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.noise import gaussian
from tf_privacy.noise import noise_style as noise_style_module
from tf_privacy.optimizers import preconditioner as preconditioner_module
from tf_privacy.optimizers import row_noise
from tf_privacy.optimizers import shared_number
from tf_privacy.optimizers import step_ledger
from tf_privacy.optimizers import style_check
from tf_privacy.optimizers import units_check

# Float32 rounds noise by less; the gradients' share is rounded up by it.
_ROUND_UP = 1.0 + 1e-6
# Weight of the newest step in the average of the query that is logged.
_AVERAGED = 0.1


class StepNoise:
    """Clipping style, noise style and the noise itself, as one mechanism.

    `noise_multiplier` of the noise style is that of everything a step
    releases. Where the style asks a query, of sensitivity s and with noise of
    standard deviation t, gradients get the noise multiplier z' of

        (S / z)^2 = (S / z')^2 + k (s / t)^2
    with S the L2 norm that a unit adds to a release of k participations (both 1
    where noise is independent): both are one Gaussian mechanism then, of noise
    multiplier z (Andrew et al. 2021, arXiv:1905.03871, Theorem 1).

    Args:
        clipping_style: How each unit is clipped.
        noise_style: How the noise of different steps belongs together.
        row_selection: Which rows of embedding tables are updated, or None for
            all; its part f of the budget is one more term, f (S / z)^2.
        gradient_scaling: How gradients are scaled before the clip, or None.
        source: Where randomness comes from.

    Raises:
        ValueError: If the two styles do not go together.
    """

    def __init__(
        self,
        clipping_style: styles.ClippingStyle,
        noise_style: noise_style_module.NoiseStyle,
        *,
        row_selection: row_selection_module.RowSelection | None = None,
        gradient_scaling: preconditioner_module.GradientScaling | None = None,
        source: gaussian.NoiseSource,
    ):
        style_check.check_styles(clipping_style, noise_style, row_selection)
        if row_selection is not None and gradient_scaling is not None:
            raise ValueError(
                "gradient_scaling must be None where rows are selected. "
                "Received: both. Leave one of them out."
            )
        for level in noise_style.noise_multipliers:
            gaussian.compute_stddev(level, clipping_style.l2_norm_clip)
        self.clipping_style = clipping_style
        self.noise_style = noise_style
        self.row_selection = row_selection
        self._source = source
        self._gradient_scaling = gradient_scaling
        self._generator = None
        self._preconditioner = None
        self._clip_state = None
        self._held_rows = []
        self._own_rows = None
        self._release = self._draw_release()

    def check_scope(self) -> None:
        """Raises if another `tf.distribute` strategy was in force before.

        Raises:
            ValueError: If it was when this was made.
        """
        replicas.check_scope(self.scope, "optimizer")

    @property
    def scope(self):
        """The strategy in whose scope this was made, or None."""
        return self._source.scope

    @property
    def has_moving_clip(self) -> bool:
        """Whether the clip is another one in every step."""
        return isinstance(self.clipping_style, moving_clips.MovingClip)

    def _draw_release(self) -> float:
        if not self.noise_style.is_correlated:
            return 0.0
        return shared_number.draw_number()

    def start_release(self, rows_of) -> None:
        """Lets correlated noise start anew, as a release of its own.

        Args:
            rows_of: From a PoissonSampling or None to the rows of the ledger;
                steps that were compiled before count in these from now on.
        """
        if not self.noise_style.is_correlated:
            return
        if not execution.is_eager():
            raise RuntimeError(
                "start_release must be called outside of a compiled function. "
                "Received: a call within one, which would happen only once."
            )
        self._release = self._draw_release()
        for variable, sampling in self._held_rows:
            variable.assign(np.array(rows_of(sampling), np.int32))

    @contextlib.contextmanager
    def holding_rows(self, variable, sampling):
        """Keeps a variable up to date with the release, for a while.

        Args:
            variable: int32, of the ledger's rows.
            sampling: The PoissonSampling that the rows are for, or None.
        """
        self._held_rows.append((variable, sampling))
        try:
            yield
        finally:
            self._held_rows = [
                held for held in self._held_rows if held[0] is not variable
            ]

    def hold_rows(self, rows_of, sampling):
        """Returns the rows of the ledger; a variable's value if they change.

        Args:
            rows_of: As in `start_release`.
            sampling: A PoissonSampling, or None.
        """
        rows = rows_of(sampling)
        if not self.noise_style.is_correlated or execution.is_eager():
            return rows
        # One variable for all: where noise is correlated, the rows are the
        # same whatever the sampling.
        with execution.outside_of_graph():
            if self._own_rows is None:
                self._own_rows = keras.Variable(
                    np.array(rows, np.int32), dtype="int32", trainable=False
                )
                self._held_rows.append((self._own_rows, sampling))
            self._own_rows.assign(np.array(rows, np.int32))
        return self._own_rows.value

    def use_clip_state(self, variable) -> None:
        """Keeps the clip in a variable that is saved with the optimizer.

        Args:
            variable: `(2,)` float32: the clip in force over l2_norm_clip, and
                an average of the noised query.
        """
        variable.assign([1.0, 0.0])
        self._clip_state = variable

    def build(self, variables, add_variable) -> None:
        """Makes the state of the noise, and of what scales gradients.

        Args:
            variables: The `keras.Variable`s whose gradients are noised.
            add_variable: The optimizer's, for state that is no secret.
        """
        if self._gradient_scaling is not None:
            self._preconditioner = preconditioner_module.Preconditioner(
                self._gradient_scaling, variables, add_variable
            )
        with execution.outside_of_graph():
            self._generator = self.noise_style.make_generator(
                variables, self._source
            )

    @property
    def source_variables(self) -> list[keras.Variable]:
        """Of the state, what new draws come from."""
        return self._source.state_variables

    @property
    def state_variables(self) -> list[keras.Variable]:
        """Secret variables that a step reads and writes; never saved."""
        own = [] if self._own_rows is None else [self._own_rows]
        held = self._generator.state_variables if self._generator else []
        return [*own, *held, *self._source.state_variables]

    @property
    def scales_gradients(self) -> bool:
        """Whether gradients are scaled before the clip."""
        return self._gradient_scaling is not None

    @property
    def preconditioner(self) -> preconditioner_module.Preconditioner | None:
        """What scales gradients before the clip, or None."""
        return self._preconditioner

    @property
    def current_clip(self) -> styles.ClippingStyle:
        """How the next step is to be clipped."""
        scales = None
        if self._gradient_scaling is not None:
            if self._preconditioner is None:
                raise ValueError(
                    "optimizer must be built where it scales gradients. "
                    "Received: one that is not. Call optimizer.build("
                    "model.trainable_variables) before the loop."
                )
            scales = self._preconditioner.make_scales()
        is_plain = scales is None and self.row_selection is None
        if self._clip_state is None and is_plain:
            return self.clipping_style
        scale = None
        if self._clip_state is not None:
            # On PyTorch a variable's value is changed in place.
            scale = ops.copy(self._clip_state.value[0])
        return moving_clips.CurrentClip.of(
            self.clipping_style,
            scale,
            scales=scales,
            selects_rows=self.row_selection is not None,
        )

    def save(self, store) -> None:
        """Writes the state that is no secret.

        Args:
            store: Where the optimizer is saved.
        """
        if self._clip_state is not None:
            store["clip_state"] = ops.convert_to_numpy(self._clip_state.value)
        if self._preconditioner is not None:
            self._preconditioner.save(store)

    def load(self, store) -> None:
        """Takes in what `save` wrote, as far as it is there.

        Args:
            store: Where the optimizer was saved.
        """
        if self._clip_state is not None and "clip_state" in store:
            self._clip_state.assign(np.array(store["clip_state"]))
        if self._preconditioner is not None:
            self._preconditioner.load(store)

    def clip_logs(self) -> dict:
        """Returns the clip in force and what the noised query says of it."""
        if self._clip_state is None:
            return {}
        state = self._clip_state.value
        return {
            "l2_norm_clip": state[0] * self.clipping_style.l2_norm_clip,
            **self.clipping_style.describe(state[1]),
        }

    def compute_query_noise(
        self, level: int, expected_batch_size: float | None
    ) -> float | None:
        """Returns the query's noise over its sensitivity; None without one.

        Args:
            level: Of the noise style.
            expected_batch_size: Units; None, where not known yet, gives None.
        """
        sensitivity = self.clipping_style.query_sensitivity
        if sensitivity is None or expected_batch_size is None:
            return None
        multiplier = self.noise_style.noise_multipliers[level]
        stddev = self.clipping_style.choose_query_stddev(
            multiplier, expected_batch_size
        )
        return stddev / sensitivity

    def compute_gradient_multiplier(
        self, level: int, expected_batch_size: float | None
    ) -> float:
        """Returns the noise multiplier of the gradients alone, rounded up.

        Args:
            level: Of the noise style.
            expected_batch_size: Units.

        Raises:
            ValueError: If the query alone takes all that may be spent.
        """
        multiplier = self.noise_style.noise_multipliers[level]
        query_noise = self.compute_query_noise(level, expected_batch_size)
        if query_noise is None and self.row_selection is None:
            return multiplier
        share = 0.0
        if self.row_selection is not None:
            share += self.row_selection.budget_fraction
        if query_noise is not None:
            count = self.noise_style.num_participations
            sensitivity = self.noise_style.sensitivity
            share += count * (multiplier / sensitivity / query_noise) ** 2
        if not share < 1.0:
            raise ValueError(
                "the noise on the clip's query must leave a part of the budget "
                "to the gradients. Received: a query that, with the selection "
                f"of rows, takes {share:.3g} of it, with noise {query_noise:g} "
                "over its sensitivity. Use more noise there: for "
                "QuantileClipping, count_stddev is half of it."
            )
        return multiplier / math.sqrt(1.0 - share) * _ROUND_UP

    def make_step_kind(
        self,
        sampling,
        *,
        level: int,
        expected_batch_size: float | None,
        fixed_seed: bool,
        examples_per_unit: int,
    ) -> step_ledger.StepKind:
        """Returns what a step is to the accountant.

        Args:
            sampling: The PoissonSampling of the batch, or None.
            level: Of the noise style.
            expected_batch_size: Units.
            fixed_seed: Whether a seed fixes the noise.
            examples_per_unit: Consecutive examples that make up one unit.

        Raises:
            ValueError: If the styles do not fit the batch size or the data.
        """
        style = self.noise_style
        units_check.check_separation(style, sampling)
        self.compute_gradient_multiplier(level, expected_batch_size)
        # A release of several steps is not amplified by sampling, and its
        # steps count in one row whatever the sampling.
        amplified = None if style.is_correlated else sampling
        return step_ledger.StepKind(
            noise_multiplier=style.noise_multipliers[level],
            sampling_probability=(
                amplified.sampling_probability if amplified else None
            ),
            num_examples=amplified.num_examples if amplified else None,
            l2_norm_clip=self.clipping_style.l2_norm_clip,
            expected_batch_size=expected_batch_size,
            fixed_seed=fixed_seed,
            examples_per_unit=examples_per_unit,
            moving_clip=self.has_moving_clip,
            query_stddev=self.compute_query_noise(level, expected_batch_size),
            family=style.family,
            sensitivity=style.sensitivity,
            steps_per_release=style.steps_per_release,
            min_separation=style.min_separation,
            max_participations=style.max_participations,
            release=self._release,
            selection_fraction=(
                self.row_selection.budget_fraction
                if self.row_selection
                else None
            ),
        )

    @property
    def is_stateless(self) -> bool:
        """Whether noise may be drawn and thrown away."""
        return self._generator.is_stateless

    def add_noise(
        self,
        clipped: clipped_sum.ClippedSum,
        *,
        level,
        position,
        expected_batch_size: float,
    ) -> gaussian.NoisedSum:
        """Returns the noised sum at the clip in force, in gradient units.

        Args:
            clipped: Of sensitivity l2_norm_clip; its units are the scale of
                the clip.
            level: int32 scalar; of the noise style.
            position: int32 scalar; which step of its release this is.
            expected_batch_size: Units.
        """
        stddevs = [
            gaussian.compute_stddev(
                self.compute_gradient_multiplier(each, expected_batch_size),
                clipped.l2_sensitivity,
            )
            for each in range(len(self.noise_style.noise_multipliers))
        ]
        stddev = _choose(stddevs, level)
        if self.row_selection is None:
            noised = self._generator.add_noise(
                clipped, stddev=stddev, position=position
            )
        else:
            noised = self._noise_rows(clipped, stddev, level)
        scale = clipped.scale
        if scale is None:
            return noised
        return gaussian.NoisedSum(
            gradients=tuple(g * scale for g in noised.gradients),
            variables=noised.variables,
            stddev=noised.stddev * scale,
        )

    def _noise_rows(self, clipped, stddev, level) -> gaussian.NoisedSum:
        """Returns the noised sum, of tables only the selected rows."""
        selection = self.row_selection
        multipliers = [
            multiplier / math.sqrt(selection.budget_fraction) * _ROUND_UP
            for multiplier in self.noise_style.noise_multipliers
        ]
        counted = [c is not None for c in clipped.row_counts]
        triples = zip(
            clipped.gradients, clipped.row_counts, counted, strict=True
        )
        shapes = [g.shape for g, _, is_table in triples if not is_table]
        noise = iter(self._source.normal([tuple(s) for s in shapes]))
        gradients = [
            gradient + stddev * next(noise)
            if counts is None
            else row_noise.add_noise_to_rows(
                gradient,
                counts,
                threshold=selection.threshold,
                count_stddev=_choose(multipliers, level),
                stddev=stddev,
                source=self._source,
            )
            for gradient, counts in zip(
                clipped.gradients, clipped.row_counts, strict=True
            )
        ]
        return gaussian.NoisedSum(
            gradients=tuple(gradients),
            variables=clipped.variables,
            stddev=stddev,
        )

    def move_clip(
        self,
        clipped: clipped_sum.ClippedSum,
        *,
        level,
        step,
        expected_batch_size: float,
    ) -> None:
        """Moves the clip by the noised query of a step, or by the schedule.

        Args:
            clipped: With the query's sum.
            level: As in `add_noise`.
            step: int scalar; updates made so far, this one included.
            expected_batch_size: Units.
        """
        if self._clip_state is None:
            return
        scale, average = clipped.scale, self._clip_state.value[1]
        query_mean = None
        if clipped.query_sum is not None:
            levels = range(len(self.noise_style.noise_multipliers))
            stddevs = [
                self.compute_query_noise(each, expected_batch_size)
                * clipped.query_sensitivity
                for each in levels
            ]
            noise = _choose(stddevs, level) * self._source.normal([()])[0]
            query_mean = (clipped.query_sum + noise) / expected_batch_size
            weight = 1.0 / ops.cast(ops.maximum(step, 1), "float32")
            weight = ops.maximum(weight, _AVERAGED)
            average = average + weight * (query_mean - average)
        scale = self.clipping_style.next_scale(
            scale, query_mean=query_mean, step=step
        )
        self._clip_state.assign(ops.stack([scale, average]))


def _choose(values, level):
    """Returns one of a few numbers; without a graph if there is but one."""
    if len(values) == 1:
        return values[0]
    return ops.take(ops.convert_to_tensor(values, "float32"), level)
