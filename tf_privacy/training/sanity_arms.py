# SPDX-License-Identifier: Apache-2.0
"""One run of a sanity check: fresh model, training, and what it then knows."""

import dataclasses
import math
import time

import keras
import numpy as np
from keras import ops

from tf_privacy.training import sanity_data
from tf_privacy.training import sanity_plan
from tf_privacy.training import sanity_statistics
from tf_privacy.training import sanity_trainers

_ROWS_PER_PREDICTION = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmResult:
    """What one run reached.

    Attributes:
        name: Key of `sanity_plan.ARMS`.
        title: For people.
        sees_data: Whether it was trained on the caller's inputs: then nothing
            covers its figures.
        train_accuracy: On the rows that it was trained on; in [0, 1]. Where
            patterns were planted, the share of patterns that it learned.
        train_stderr: Its standard error.
        num_train: Rows, or patterns, behind it.
        test_accuracy: On held-out rows; None where there are none.
        test_stderr: Its standard error, or None.
        num_test: Rows behind it; 0 where there are none.
        chance: What to expect of a model that has learned nothing: the
            accuracy of always giving the most frequent class on held-out rows;
            for random labels and patterns 1 / num_classes.
        p_value: For random labels and patterns: the probability that a model
            that is independent of them is right as often; None for others.
        num_steps: Updates of the weights.
        seconds: Wall time.
    """

    name: str
    title: str
    sees_data: bool
    train_accuracy: float
    train_stderr: float
    num_train: int
    test_accuracy: float | None
    test_stderr: float | None
    num_test: int
    chance: float
    p_value: float | None
    num_steps: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A result with what the rules compare, which is not for the report.

    Attributes:
        result: The ArmResult.
        test_hits: `[N]` float64; 1 where a held-out row is answered rightly,
            else 0; None if there are none.
    """

    result: ArmResult
    test_hits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What all runs of one check share.

    Attributes:
        build_model: The caller's function.
        plan: The SanityPlan.
        train: Rows to train on.
        test: Rows that are held out.
        initial_weights: A list of arrays: what each run starts from.
        predict_classes: From the model's outputs to class indices.
        verbose: 0 is silent; 1 shows Keras's progress bar.
    """

    build_model: object
    plan: sanity_plan.SanityPlan
    train: sanity_data.Rows
    test: sanity_data.Rows
    initial_weights: list
    predict_classes: object
    verbose: int

    def make_model(self):
        """Returns a fresh model with the initial weights.

        Raises:
            ValueError: If it is not like the first one.
        """
        model = build(self.build_model, self.train)
        shapes = [tuple(w.shape) for w in model.weights]
        if shapes != [w.shape for w in self.initial_weights]:
            raise ValueError(
                "build_model must return the same model at each call. Received "
                "weights of other shapes than at the first. Leave out what is "
                "drawn at random or counted between calls."
            )
        model.set_weights(self.initial_weights)
        return model

    def predict(self, model, x) -> np.ndarray:
        """Returns the model's answers as class indices, in inference mode.

        Args:
            model: A trained model.
            x: A structure of arrays `[N, ...]`.
        """
        num_rows = len(keras.tree.flatten(x)[0])
        # Not model.predict: TensorFlow warns of a new graph for each model.
        classes = [
            self.predict_classes(_answer(model, x, start))
            for start in range(0, num_rows, _ROWS_PER_PREDICTION)
        ]
        return np.concatenate([np.asarray(c).reshape(-1) for c in classes])

    def guess_hits(self) -> np.ndarray:
        """Returns 1 where the most frequent class is right, held-out, else 0.

        The most frequent one of the rows to train on.
        """
        classes = self.train.classes[self.train.counted]
        most_frequent = np.bincount(classes).argmax()
        return (self.test.classes == most_frequent) * 1.0


def _answer(model, x, start: int):
    """Returns the model's outputs for the rows from `start` on."""
    rows = slice(start, start + _ROWS_PER_PREDICTION)
    inputs = keras.tree.map_structure(
        lambda s: ops.convert_to_tensor(s[rows]), x
    )
    return keras.tree.map_structure(
        ops.convert_to_numpy, model(inputs, training=False)
    )


def build(build_model, rows: sanity_data.Rows):
    """Returns a new model, built for the data.

    Args:
        build_model: The caller's function.
        rows: What its inputs are like.

    Raises:
        TypeError: If it makes no Keras model.
    """
    model = build_model()
    if not isinstance(model, keras.Model):
        raise TypeError(
            "build_model must return a new keras.Model. Received: "
            f"{type(model).__name__}. Give a function without arguments that "
            "builds one."
        )
    model(
        keras.tree.map_structure(
            ops.convert_to_tensor, rows.take(np.arange(1)).x
        )
    )
    return model


class _Progress(keras.callbacks.Callback):
    """Counts the steps of a run, in Keras's progress bar."""

    def __init__(self, num_steps: int, verbose: int):
        super().__init__()
        self._bar = keras.utils.Progbar(num_steps, verbose=verbose)
        self.num_steps = 0

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.num_steps += 1
        self._bar.update(self.num_steps, finalize=False)

    def finish(self, title: str, accuracy: float):
        """Ends the line with the run's name and what it reached."""
        self._bar.update(self.num_steps, [(title, accuracy)], finalize=True)


def run(arm: sanity_plan.Arm, bench: Bench) -> Outcome:
    """Trains one model and looks at what it knows.

    Args:
        arm: Which run.
        bench: What all share.
    """
    plan, start = bench.plan, time.monotonic()
    place = list(sanity_plan.ARMS).index(arm.name)
    rng = np.random.default_rng([plan.seed, place])
    rows, patterns = _make_data(arm, bench, rng)
    num_units = len(rows.classes) // plan.optimizer.examples_per_unit
    progress = _Progress(
        plan.epochs * math.ceil(num_units / plan.batch_size), bench.verbose
    )
    model = bench.make_model()
    sanity_trainers.train(
        model, rows, plan=plan, update=arm.update, callbacks=[progress]
    )
    test_hits = None
    if arm.data == sanity_plan.REAL:
        figures, test_hits = _measure_real(model, bench)
    else:
        figures = _measure_random(model, bench, rows, patterns, rng)
    reached = "train" if test_hits is None else "test"
    progress.finish(arm.title, figures[f"{reached}_accuracy"])
    result = ArmResult(
        name=arm.name,
        title=arm.title,
        sees_data=arm.sees_data,
        num_steps=progress.num_steps,
        seconds=time.monotonic() - start,
        **figures,
    )
    return Outcome(result=result, test_hits=test_hits)


def _make_data(arm, bench, rng):
    """Returns the rows to train on, and the patterns in them or None."""
    rows = bench.train
    if arm.data == sanity_plan.REAL:
        return rows, None
    if arm.data == sanity_plan.RANDOM_LABELS:
        return sanity_data.draw_labels(rows, rng), None
    if arm.data == sanity_plan.RANDOM_INPUTS:
        x = sanity_data.draw_inputs(rows.x, len(rows.classes), rng)
        rows = dataclasses.replace(rows, x=x, sample_weight=None)
        return sanity_data.draw_labels(rows, rng), None
    size, in_one_user = (
        bench.plan.rows_per_user,
        arm.data == sanity_plan.ONE_USER,
    )
    patterns = sanity_data.draw_patterns(
        rows, len(rows.classes) // size, balanced=not in_one_user, rng=rng
    )
    planted = sanity_data.plant(
        rows, patterns, rows_per_user=size, in_one_user=in_one_user, rng=rng
    )
    return planted, patterns


def _measure_real(model, bench):
    """Returns the figures of a run on real data, and the held-out hits."""
    figures, hits = {"p_value": None}, {}
    block = bench.plan.rows_per_block
    for name, rows in (("train", bench.train), ("test", bench.test)):
        hits[name] = (bench.predict(model, rows.x) == rows.classes) * 1.0
        figures |= _name_figures(name, hits[name], rows.counted, block)
    figures["chance"], _ = sanity_statistics.estimate_mean(
        bench.guess_hits(), bench.test.counted, block
    )
    return figures, hits["test"]


def _measure_random(model, bench, rows, patterns, rng):
    """Returns the figures of a run on labels or patterns drawn at random."""
    if patterns is None:
        hits, counted = (
            bench.predict(model, rows.x) == rows.classes,
            rows.counted,
        )
    else:
        learned = sanity_data.count_learned(
            rows, patterns, lambda x: bench.predict(model, x), rng
        )
        hits = np.arange(len(patterns.classes)) < learned
        counted = np.ones(len(hits), bool)
    chance = 1.0 / rows.num_classes
    return {
        **_name_figures("train", hits * 1.0, counted, 1),
        "test_accuracy": None,
        "test_stderr": None,
        "num_test": 0,
        "chance": chance,
        "p_value": sanity_statistics.compute_p_value(
            int(hits[counted].sum()), int(counted.sum()), chance=chance
        ),
    }


def _name_figures(name, hits, counted, block):
    mean, stderr = sanity_statistics.estimate_mean(hits, counted, block)
    return {
        f"{name}_accuracy": mean,
        f"{name}_stderr": stderr,
        f"num_{name}": int(counted.sum()),
    }


def make_predict_classes(plan: sanity_plan.SanityPlan):
    """Returns the function from a model's outputs to class indices.

    Args:
        plan: The SanityPlan.
    """
    if plan.predict_classes is not None:
        return plan.predict_classes
    threshold = 0.0 if getattr(plan.loss, "from_logits", False) else 0.5

    def predict_classes(outputs):
        if not isinstance(outputs, np.ndarray) or outputs.ndim > 2:
            raise ValueError(
                "predict_classes must be given for a model whose output is "
                f"not one array [B, C]. Received: {type(outputs).__name__} "
                f"of shape {getattr(outputs, 'shape', None)}. Give a function "
                "from its outputs to class indices."
            )
        outputs = outputs.reshape(len(outputs), -1)
        if outputs.shape[1] > 1:
            classes = np.argmax(outputs, axis=1)
        else:
            classes = (outputs[:, 0] > threshold).astype(np.int64)
        return np.where(np.isfinite(outputs).all(axis=1), classes, -1)

    return predict_classes
