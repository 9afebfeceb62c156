# SPDX-License-Identifier: Apache-2.0
"""DPOptimizer: noise, division and count in front of any Keras optimizer."""

import keras
import numpy as np
from keras import ops

from tf_privacy.clipping import microbatches
from tf_privacy.clipping import row_selection as row_selection_module
from tf_privacy.clipping import styles
from tf_privacy.clipping.backend.execution import execution
from tf_privacy.clipping.backend.replicas import replicas
from tf_privacy.noise import gaussian
from tf_privacy.noise import noise_style as noise_style_module
from tf_privacy.optimizers import budget_error
from tf_privacy.optimizers import inner_check
from tf_privacy.optimizers import inner_step
from tf_privacy.optimizers import preconditioner
from tf_privacy.optimizers import step_check
from tf_privacy.optimizers import step_ledger
from tf_privacy.optimizers import step_noise
from tf_privacy.optimizers import style_config
from tf_privacy.optimizers import units_check
from tf_privacy.sampling import poisson

_PACKAGE = "tf_privacy"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class DPOptimizer(keras.optimizers.Optimizer):
    """Makes any Keras optimizer differentially private.

        gradient = (clipped_sum + N(0, (noise_multiplier * l2_norm_clip)^2))
                   / expected_batch_size
    goes to the inner optimizer, whose learning rate, weight decay, moments and
    averages only see noised values. One draw of noise for each call of
    `apply`, from the operating system's entropy. Each call is one entry of
    the ledger.

    Accepts only a `ClippedSum`: raw gradients, and so an ordinary Keras model,
    are refused. Under a `tf.distribute` strategy, replicas add up their sums
    before the noise, which is one draw for all.

    Args:
        inner_optimizer: A `keras.optimizers.Optimizer`, not yet built.
        l2_norm_clip: L2 bound on one unit's gradient; gradient units; > 0. A
            number, or a `ClippingStyle` that has one, such as
            `QuantileClipping(l2_norm_clip=1.0)`, whose clip moves.
        noise_multiplier: Standard deviation of the noise on the sum, divided
            by l2_norm_clip; > 0. A number, or a `NoiseStyle` that has one,
            such as `NoiseSchedule` or `TreeNoise`.
        expected_batch_size: What the noised sum is divided by, the mean
            number of units in a batch; > 0. None lets the first `fit` set it,
            to its `batch_size`.
        microbatch_size: Rows sent through the model at once. "auto" takes the
            most that fit in `memory_limit`; None sends the whole batch.
            Changes memory and time, not the result.
        memory_limit: Bytes that a piece of the batch may hold, for
            microbatch_size="auto"; an estimate. None takes 256 MiB, which is
            also fast: larger pieces leave the processor's caches.
        examples_per_unit: So many consecutive examples of the data make up one
            unit, what the guarantee protects: those of one person, for
            user-level privacy. See `arrange_units`.
        row_selection: None, or a `RowSelection`: only rows of embedding tables
            that enough units look up are updated and noised.
        gradient_scaling: None, or a `GradientScaling`: gradients are scaled by
            released statistics before the clip, and back after the noise.
        seed: None. An int fixes the noise, for tests: never release a model
            that was trained with it.
        name: Name of the optimizer.

    Raises:
        ValueError: If an argument is out of range, or the inner optimizer
            accumulates or rescales gradients by itself.
        TypeError: If `inner_optimizer` is not a Keras optimizer.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
    """

    def __init__(
        self,
        inner_optimizer,
        *,
        l2_norm_clip: float | styles.ClippingStyle,
        noise_multiplier: float | noise_style_module.NoiseStyle,
        expected_batch_size: float | None = None,
        microbatch_size: int | str | None = microbatches.AUTO,
        memory_limit: float | None = None,
        examples_per_unit: int = 1,
        row_selection: row_selection_module.RowSelection | None = None,
        gradient_scaling: preconditioner.GradientScaling | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        is_even = row_selection is None and gradient_scaling is None
        inner_check.check_inner(inner_optimizer, has_even_noise=is_even)
        settings = style_config.check_settings(
            {
                "l2_norm_clip": l2_norm_clip,
                "noise_multiplier": noise_multiplier,
                "expected_batch_size": expected_batch_size,
                "microbatch_size": microbatch_size,
                "memory_limit": memory_limit,
                "examples_per_unit": examples_per_unit,
                "row_selection": row_selection,
                "gradient_scaling": gradient_scaling,
                "seed": seed,
            }
        )
        noise = step_noise.StepNoise(
            settings["l2_norm_clip"],
            settings["noise_multiplier"],
            row_selection=row_selection,
            gradient_scaling=gradient_scaling,
            source=gaussian.NoiseSource(seed),
        )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self._noise = noise
        self._settings = settings
        self._ledger = step_ledger.StepLedger(self.add_variable)
        if noise.has_moving_clip:
            noise.use_clip_state(
                self.add_variable((2,), dtype="float32", name="clip_state")
            )

    @property
    def l2_norm_clip(self) -> float:
        """L2 bound on one unit's gradient."""
        return self._noise.clipping_style.l2_norm_clip

    @property
    def clipping_style(self) -> styles.ClippingStyle:
        """How that bound is kept."""
        return self._noise.clipping_style

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum over l2_norm_clip."""
        return self._noise.noise_style.noise_multiplier

    @property
    def noise_style(self) -> noise_style_module.NoiseStyle:
        """How the noise of different steps belongs together."""
        return self._noise.noise_style

    @property
    def row_selection(self) -> row_selection_module.RowSelection | None:
        """Which rows of embedding tables are updated; None for all."""
        return self._noise.row_selection

    @property
    def step_noise(self) -> step_noise.StepNoise:
        """What a step releases."""
        return self._noise

    @property
    def current_clip(self) -> styles.ClippingStyle:
        """How the next step is to be clipped, for a custom loop.

        Build the optimizer before, where it has a `gradient_scaling`.
        """
        return self._noise.current_clip

    def clip_logs(self) -> dict:
        """Returns the clip in force and the noised fraction that it clips.

        Both from noised values only; empty where the clip is constant.
        """
        return self._noise.clip_logs()

    def start_release(self) -> None:
        """Lets correlated noise start anew, where the order of the data does.

        Steps from now on are a release of their own to the accountant. Put a
        budget's limit on anew: it was for the steps of the release before.
        """
        self._noise.start_release(self.rows_of)

    @property
    def expected_batch_size(self) -> float | None:
        """The divisor; None until it is known."""
        return self._settings["expected_batch_size"]

    @property
    def microbatch_size(self) -> int | str | None:
        """Rows sent through the model at once, "auto", or None."""
        return self._settings["microbatch_size"]

    @property
    def memory_limit(self) -> float | None:
        """Bytes that a piece of a batch may hold under "auto", or None."""
        return self._settings["memory_limit"]

    @property
    def examples_per_unit(self) -> int:
        """Consecutive examples that make up one unit."""
        return self._settings["examples_per_unit"]

    @property
    def ledger(self) -> step_ledger.StepLedger:
        """What steps ran."""
        return self._ledger

    def set_expected_batch_size(self, value: float) -> None:
        """Fixes the divisor, once and before training.

        Args:
            value: The expected batch size; > 0.

        Raises:
            ValueError: If another one is set already: a divisor that changed
                between steps would follow the data.
        """
        self._settings["expected_batch_size"] = style_config.fix_batch_size(
            self.expected_batch_size, value
        )

    def step_kind(
        self, sampling: poisson.PoissonSampling | None = None, *, level: int = 0
    ) -> step_ledger.StepKind:
        """Returns what a step with this optimizer is to the accountant.

        Args:
            sampling: How the batch was drawn; None if the user made it.
            level: Which of the noise style's `noise_multipliers` it has.
        """
        return self._noise.make_step_kind(
            sampling,
            level=level,
            expected_batch_size=self.expected_batch_size,
            fixed_seed=self._settings["seed"] is not None,
            examples_per_unit=self.examples_per_unit,
        )

    def step_kinds(
        self, sampling: poisson.PoissonSampling | None = None
    ) -> tuple[step_ledger.StepKind, ...]:
        """Returns what steps are at each level of the noise.

        Args:
            sampling: How the batches are drawn; None if the user makes them.
        """
        return tuple(
            self.step_kind(sampling, level=level)
            for level in range(len(self._noise.noise_style.noise_multipliers))
        )

    def rows_of(
        self, sampling: poisson.PoissonSampling | None = None
    ) -> list[int]:
        """Returns the ledger's row of each of `step_kinds`.

        Args:
            sampling: As in `step_kinds`.
        """
        return [self._ledger.row_of(kind) for kind in self.step_kinds(sampling)]

    def build(self, variables):
        """Builds the inner optimizer on the variables."""
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._noise.build(variables, self.add_variable)

    @property
    def state_variables(self) -> list[keras.Variable]:
        """What a step reads and writes beside `variables`; never saved."""
        return [*self._ledger.state_variables, *self._noise.state_variables]

    @property
    def variables(self):
        """Own variables and the inner optimizer's."""
        return self._variables + self.inner_optimizer.variables

    @execution.runs_as_written
    def apply(
        self,
        grads,
        trainable_variables=None,
        *,
        data_independent_gradients=None,
        sampling: poisson.PoissonSampling | None = None,
    ):
        """Adds noise to a clipped sum, divides, and takes one inner step.

        Args:
            grads: A `ClippedSum` of one whole logical batch.
            trainable_variables: None, or the variables of the sum.
            data_independent_gradients: A list aligned with the sum's
                variables, for example of regularisers; added after the noise.
            sampling: How the batch was drawn, if by `PoissonSampling`. It is
                taken at your word. None counts the step without amplification.

        Raises:
            TypeError: If `grads` is anything but a ClippedSum.
            ValueError: If its sensitivity is not this optimizer's clip.
            PrivacyBudgetError: If the step is past the budget and this is
                eager code. Inside a compiled function nothing is released, and
                `check_budget()` raises.
        """
        units_check.check_sampling(sampling, self.examples_per_unit)
        step_check.check_grads(grads, trainable_variables)
        step_check.check_divisor(self.expected_batch_size)
        rows = replicas.run_once(
            lambda: self._noise.hold_rows(self.rows_of, sampling)
        )
        allowed = self.apply_in_rows(grads, rows, data_independent_gradients)
        if execution.is_eager() and not bool(allowed):
            replicas.run_once(self.check_budget)

    def apply_in_rows(self, clipped, rows, data_independent_gradients=None):
        """Takes one step that the ledger counts in one of the given rows.

        Args:
            clipped: A `ClippedSum`.
            rows: Row of the ledger for each level of the noise, from
                `rows_of`; ints, or an int32 tensor; < 0 allows no step.
            data_independent_gradients: As in `apply`.

        Returns:
            A bool tensor: false if the budget refused the step.
        """
        self._noise.check_scope()
        replicas.check_running()
        execution.check_carried(
            [*self._ledger.state_variables, *self._noise.source_variables]
        )
        units_check.check_clipped(clipped, self)
        if not self.built:
            step_check.check_may_build(self.name)
            with keras.name_scope(self.name):
                self.build(list(clipped.variables))
        clipped = clipped.with_sums(replicas.sum_over_replicas(clipped.sums))
        level = self._noise.noise_style.choose_level(self.iterations.value)
        row = ops.take(ops.convert_to_tensor(rows, "int32"), level)
        # Only once there is a batch: where data run out within a step, no step
        # is to be counted.
        allowed = execution.after(self._ledger.allows(row), clipped.gradients)
        allowed = replicas.agree(allowed)

        def take_step():
            # Outside of the condition where that changes nothing: drawn beside
            # the forward and backward pass. A refused step throws it away.
            noised = None
            if self._noise.is_stateless:
                noised = self._add_noise(clipped, row, level)
            execution.cond(
                allowed, lambda: release(noised), self._ledger.refuse
            )

        def release(noised):
            inner_step.take_inner_step(
                self.inner_optimizer,
                noised or self._add_noise(clipped, row, level),
                expected_batch_size=self.expected_batch_size,
                data_independent_gradients=data_independent_gradients,
                scales=clipped.scales,
                preconditioner=self._noise.preconditioner,
            )
            self._noise.move_clip(
                clipped,
                level=level,
                step=self.iterations.value,
                expected_batch_size=self.expected_batch_size,
            )
            self._ledger.count(row)

        replicas.run_once(take_step)
        return allowed

    def _add_noise(self, clipped, row, level):
        return self._noise.add_noise(
            clipped,
            level=level,
            position=self._ledger.position(
                row, self._noise.noise_style.steps_per_release
            ),
            expected_batch_size=self.expected_batch_size,
        )

    def check_budget(self) -> None:
        """Raises PrivacyBudgetError if a step was refused since last time."""
        if self._ledger.take_refused():
            raise budget_error.PrivacyBudgetError(budget_error.OVER_BUDGET)

    @property
    def budget(self) -> tuple[float, float] | None:
        """(target_epsilon, target_delta) in force, or None."""
        return self._ledger.budget

    def set_budget(self, budget: tuple[float, float] | None) -> None:
        """Keeps a budget with the optimizer; it is saved with it.

        No step is allowed until `ledger.set_limit` says how far it goes.

        Args:
            budget: (target_epsilon, target_delta), or None for none.
        """
        self._ledger.set_budget(budget)

    def inherit(self, table, budget=None) -> None:
        """Takes over what was counted before this optimizer.

        Args:
            table: From `ledger.to_numpy()` of another optimizer that trained
                the same weights, or from a file.
            budget: Its budget, kept if this one has none.
        """
        self._ledger.merge(table)
        self.set_budget(self.budget or budget)

    def apply_gradients(self, grads_and_vars):
        """Refuses: gradients given this way were not clipped.

        Args:
            grads_and_vars: Anything.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "optimizer.apply_gradients must not be called with raw gradients: "
            "they were not clipped one example at a time. Received: a call of "
            f"apply_gradients on {self.name!r}. {step_check.REMEDY}"
        )

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """Refuses: the noise and the ledger are state.

        Args:
            optimizer_variables: Anything.
            grads: Anything.
            trainable_variables: Anything.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "optimizer.stateless_apply must not be called: a step without "
            "state has no ledger and would repeat its noise. Received: a call "
            f"of it on {self.name!r}. {step_check.REMEDY}"
        )

    @property
    def learning_rate(self):
        """The inner optimizer's learning rate."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """The inner optimizer's count of updates."""
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, var_list):
        """Lets the inner optimizer write its averages into the variables."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def save_own_variables(self, store):
        """Saves the ledger and the budget; never the state of the noise."""
        store["ledger"] = self._ledger.to_numpy()
        store["budget"] = np.array(self.budget or (0.0, 0.0), np.float64)
        self._noise.save(store)

    def load_own_variables(self, store):
        """Takes in a saved ledger; steps of this object stay counted."""
        epsilon, delta = (float(v) for v in np.array(store["budget"]))
        self.inherit(
            np.array(store["ledger"]), (epsilon, delta) if delta > 0 else None
        )
        self._noise.load(store)

    def _dp_config(self):
        return style_config.describe_settings(self._settings)

    def get_config(self):
        """Returns the arguments, the inner optimizer serialised."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {
            "name": self.name,
            "inner_optimizer": inner,
            **self._dp_config(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds an optimizer from `get_config()`."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner, **style_config.restore_styles(config))
