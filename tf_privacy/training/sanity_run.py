# SPDX-License-Identifier: Apache-2.0
"""Sanity checks before training: whether it learns, and whether too much."""

import math
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.training import sanity_arms
from tf_privacy.training import sanity_data
from tf_privacy.training import sanity_findings
from tf_privacy.training import sanity_plan
from tf_privacy.training import sanity_report
from tf_privacy.training import signal_to_noise

# Units whose gradients are looked at before the first step.
_MOST_UNITS = 256


def sanity_check(
    build_model: Callable[[], keras.Model],
    data,
    *,
    plan: sanity_plan.SanityPlan,
    validation_data=None,
    verbose: int = 1,
) -> sanity_report.SanityReport:
    """Returns what is wrong with a planned private training, and the knobs.

    For classification. Looks first at each layer's signal and noise, before
    any step; then trains fresh models from the same initial weights, with the
    same inner optimizer, batch size and number of steps:
        1. in the ordinary way;
        2. with clipping and no noise; 3. with noise and no clip;
        4. privately;
        5. privately on random labels, 6. on random inputs and labels: what is
           learned there is learned by heart; and once in the ordinary way, to
           see that it could be;
        7. where a user has several rows: privately on random rows with
           patterns that one user each has, which must not be learned, and with
           patterns that all users have, which should be.
    Interrupted from the keyboard, it reports on the runs that ended.

    Nothing of this is private: the figures come from raw data, runs 1 to 3
    have no guarantee, and the others are measured on raw data. Check with
    public or synthetic data of the same shape; on private data keep the report
    to yourself, and choose nothing by it that is released with an epsilon of
    one training run. Runs on random inputs (6, 7) look at nothing but the
    data's shapes, the number of classes and the mean and variance of inputs.

    Args:
        build_model: Returns a new `keras.Model` at each call, plain and with
            the same initial shapes; compiled or not makes no difference.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays `[N, ...]`; y are
            class indices or one-hot rows.
        plan: A `SanityPlan`: the optimizer, the loss, and how much to run.
        validation_data: As `data`, in place of a held-out share; of other
            users.
        verbose: 1 shows Keras's progress bar, one line for each run; 0 is
            silent.

    Returns:
        A SanityReport; `print` it, or `plot`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the data are too few or no classification, or the model
            cannot be trained privately.

    Source: van der Veen, Seggers, Bloem and Patrini 2018, Three Tools for
        Practical Differential Privacy, arXiv:1812.02890, section 3.1.
    """
    if not isinstance(plan, sanity_plan.SanityPlan):
        raise TypeError(
            f"plan must be a SanityPlan. Received: {type(plan).__name__}. Give "
            "tf_privacy.SanityPlan(optimizer=..., loss=..., batch_size=..., "
            "epochs=...)."
        )
    verbose = _checks.check_integer("verbose", verbose, at_least=0, at_most=1)
    bench = _make_bench(build_model, data, validation_data, plan, verbose)
    signals, outcomes, interrupted = None, {}, False
    try:
        signals = _measure_signals(bench)
        for arm in plan.choose_arms():
            outcomes[arm.name] = sanity_arms.run(arm, bench)
    except KeyboardInterrupt:
        interrupted = True
    evidence = sanity_findings.Evidence(
        bench=bench, outcomes=outcomes, signals=signals
    )
    return sanity_report.SanityReport(
        findings=tuple(sanity_findings.find_problems(evidence)),
        limits=tuple(sanity_findings.find_limits(evidence)),
        arms=tuple(outcome.result for outcome in outcomes.values()),
        signal_to_noise=signals,
        num_train=len(bench.train.classes),
        num_test=len(bench.test.classes),
        l2_norm_clip=plan.optimizer.l2_norm_clip,
        noise_multiplier=plan.optimizer.noise_multiplier,
        batch_size=plan.batch_size,
        examples_per_unit=plan.optimizer.examples_per_unit,
        examples_per_user=plan.rows_per_user,
        epochs=plan.epochs,
        alpha=plan.alpha,
        interrupted=interrupted,
    )


def _make_bench(build_model, data, validation_data, plan, verbose):
    """Returns what all runs share, once the arguments are checked."""
    block = plan.rows_per_block
    rng = np.random.default_rng(plan.seed)
    rows = sanity_data.make_rows(data, name="data", rows_per_block=block)
    train, test = sanity_data.split(
        rows,
        rows_per_block=block,
        num_examples=plan.num_examples,
        validation_split=plan.validation_split
        if validation_data is None
        else 0.0,
        rng=rng,
    )
    if validation_data is not None:
        test = sanity_data.make_rows(
            validation_data, name="validation_data", rows_per_block=block
        )
        if test.y.shape[1:] != train.y.shape[1:]:
            raise ValueError(
                "validation_data must have labels of the form of data's, "
                f"{train.y.shape}. Received: {test.y.shape}. Encode them alike."
            )
    num_units = len(train.classes) // plan.optimizer.examples_per_unit
    if not plan.batch_size <= num_units:
        raise ValueError(
            f"batch_size must be at most the {num_units} units that are left "
            f"to train on. Received: {plan.batch_size}. Give more rows, or a "
            "larger num_examples."
        )
    if not (train.counted.any() and test.counted.any()):
        raise ValueError(
            "sample_weight must be above 0 for rows on both sides. Received: "
            "none to train on, or none held out. Give more rows."
        )
    model = sanity_arms.build(build_model, train)
    return sanity_arms.Bench(
        build_model=build_model,
        plan=plan,
        train=train,
        test=test,
        initial_weights=model.get_weights(),
        predict_classes=sanity_arms.make_predict_classes(plan),
        verbose=verbose,
    )


def _measure_signals(bench):
    """Returns the signal and noise of the layers before the first step."""
    plan, unit = bench.plan, bench.plan.optimizer.examples_per_unit
    num_units = len(bench.train.classes) // unit
    rng = np.random.default_rng([plan.seed, len(sanity_plan.ARMS)])
    chosen = rng.permutation(num_units)[:_MOST_UNITS]
    rows = bench.train.take(sanity_data.rows_of(chosen, unit))
    model = bench.make_model()
    model.compile(loss=plan.loss)
    return signal_to_noise.estimate_signal_to_noise(
        model,
        rows.x,
        rows.y,
        rows.sample_weight,
        num_steps=plan.epochs * math.ceil(num_units / plan.batch_size),
        optimizer=plan.optimizer,
        expected_batch_size=plan.batch_size,
    )
