# SPDX-License-Identifier: Apache-2.0
"""Where the audit speaks to Keras: scores of a model, and steps that ran."""

import importlib
import importlib.util
from collections.abc import Callable

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import claim as claim_lib
from tf_privacy.audit import language_model
from tf_privacy.audit import pipeline
from tf_privacy.audit import report
from tf_privacy.audit import scores as scores_lib

# What makes a Dirac canary's gradient exceed any clip that is in use.
_GRADIENT_OVER_CLIP = 100.0


def _load_backend(name: str):
    """Returns a module of the Keras backend in use.

    Args:
        name: What it does, the end of the module's name; may be empty.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise NotImplementedError(
            "KERAS_BACKEND must be 'tensorflow' to audit a model. Received: "
            f"{backend!r}. Set KERAS_BACKEND=tensorflow before Keras is "
            "imported."
        )
    return importlib.import_module(f"{__package__}.backend.{backend}{name}")


def make_language_model(
    model: keras.Model,
    *,
    outputs: str,
    pad_token: int | None = None,
    batch_size: int = 256,
) -> language_model.LanguageModel:
    """Returns a Keras language model's bits of the next token.

    The model takes tokens `[B, L]` and returns scores of the next token: after
    all of them, `[B, V]`, or, if it is causal, after each, `[B, L, V]`.

    Args:
        model: A built Keras model of one input.
        outputs: What it returns, "logits" or "probabilities".
        pad_token: Fills up sequences for a model of fixed length; None refuses
            shorter ones.
        batch_size: The most sequences in one call; >= 1.

    Raises:
        ValueError: If the model's shapes do not fit, or it looks ahead.
    """
    input_shape, output_shape = model.input_shape, model.output_shape
    if not (
        isinstance(input_shape, tuple)
        and len(input_shape) == 2
        and isinstance(output_shape, tuple)
        and output_shape[-1] is not None
    ):
        raise ValueError(
            "model must map tokens [batch, length] to scores of the next "
            f"token. Received: a model from {input_shape} to {output_shape}."
        )
    return language_model.LanguageModel(
        _load_backend("_call").compile_call(model),
        outputs=outputs,
        vocabulary_size=output_shape[-1],
        context_length=input_shape[1],
        pad_token=pad_token,
        batch_size=batch_size,
    )


def compute_losses(
    model: keras.Model,
    x,
    y,
    *,
    loss=None,
    batch_size: int = 256,
) -> np.ndarray:
    """Returns each example's loss, in inference mode.

    Further axes (the tokens of a sequence) are averaged, as `fit` does.

    Args:
        model: Any Keras model of one output.
        x: `[N, ...]`, what `model.predict` takes.
        y: `[N, ...]`, the labels.
        loss: A Keras loss or its name; None takes that of `compile`.
        batch_size: Rows in one call; >= 1.

    Returns:
        `[N]` float64.

    Raises:
        ValueError: If there is no single loss, or an example's loss is not
            finite: it has no place in a ranking.
    """
    loss = model.loss if loss is None and model.compiled else loss
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise ValueError(
            f"loss must be one Keras loss or its name. Received: {loss!r}. "
            "Give loss=, or compile the model with it."
        )
    function = keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        function = function.call
    y = np.asarray(y)
    found = []
    for start in range(0, len(y), batch_size):
        rows = slice(start, start + batch_size)
        outputs = model.predict_on_batch(_take_rows(x, rows))
        labels = y[rows]
        if labels.ndim == outputs.ndim - 1:
            labels = labels[..., None] if outputs.shape[-1] == 1 else labels
        losses = keras.ops.convert_to_numpy(function(labels, outputs))
        losses = losses.astype(np.float64)
        found.append(losses.reshape(len(losses), -1).mean(axis=1))
    return scores_lib.check_scores(
        "losses", np.concatenate(found) if found else np.zeros(0)
    )


def _check_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "log_dir needs TensorBoard. Received: no such package. Run pip "
            "install tensorboard."
        )


def _take_rows(x, rows):
    return keras.tree.map_structure(lambda array: array[rows], x)


class AuditCallback(keras.callbacks.Callback):
    """Audits the model while it trains, every few epochs.

    What `audit` returns is kept in `history`, as numbers also in the epoch's
    logs (so that `History`, `CSVLogger` and callbacks after this one see them,
    as `audit_<name>`) and, with `log_dir`, in TensorBoard.

    Looking at the model costs no privacy budget where the model is private:
    it is post-processing. What is printed about members of a model that is not
    private tells about them.

    Args:
        audit: Called with the model and the epoch's number; returns a mapping
            of names to numbers, or an object whose `to_scalars()` does.
        every: Epochs between two audits; >= 1. The last epoch of `fit` is
            audited in any case.
        log_dir: Folder of TensorBoard's files; None writes none.

    Raises:
        ValueError: If `every` is no whole number >= 1.
        TypeError: If `audit` cannot be called.
        ImportError: If `log_dir` is given and TensorBoard is not installed.
    """

    def __init__(
        self,
        audit: Callable,
        *,
        every: int = 1,
        log_dir: str | None = None,
    ):
        super().__init__()
        if not callable(audit):
            raise TypeError(
                "audit must be a function of the model and the epoch. "
                f"Received: {audit!r}."
            )
        self._audit = audit
        self._every = _checks.check_integer("every", every, at_least=1)
        self._board = None
        if log_dir is not None:
            _check_tensorboard()
            self._board = keras.callbacks.TensorBoard(
                str(log_dir), write_graph=False
            )
        self._last = None
        self.history = []

    def set_model(self, model):
        """Takes the model that is trained.

        Args:
            model: Any Keras model.
        """
        super().set_model(model)
        if self._board is not None:
            self._board.set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        """Audits if it is this epoch's turn.

        Args:
            epoch: From 0.
            logs: The epoch's figures, to which the audit's are added.
        """
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self._every and not is_last:
            return
        result = self._audit(self.model, epoch)
        self.history.append((epoch, result))
        scalars = result
        if hasattr(result, "to_scalars"):
            scalars = result.to_scalars()
        named = {f"audit_{k}": float(v) for k, v in dict(scalars).items()}
        if logs is not None:
            logs.update(named)
        if self._board is not None:
            self._board.on_epoch_end(epoch, dict(named))

    def on_train_end(self, logs=None):
        """Closes TensorBoard's files.

        Args:
            logs: Not used.
        """
        if self._board is not None:
            self._board.on_train_end(logs)


class _StepRecorder(keras.callbacks.Callback):
    """Keeps what each step added to the canaries' coordinates."""

    def __init__(self, num_canaries: int):
        super().__init__()
        self._num_canaries = num_canaries
        self.steps = []

    def _read(self):
        (weights,) = self.model.trainable_variables
        return keras.ops.convert_to_numpy(weights)[: self._num_canaries, 0]

    def on_train_begin(self, logs=None):
        self._before = self._read().astype(np.float64)

    def on_train_batch_end(self, batch, logs=None):
        after = self._read().astype(np.float64)
        rate = _get_plain_rate(self.model.optimizer)
        self.steps.append((after - self._before) / rate)
        self._before = after


def _get_plain_rate(optimizer) -> float:
    """Returns the learning rate of plain SGD, inside of a wrapper or not."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(inner, keras.optimizers.SGD) or (
        inner.momentum or inner.weight_decay or inner.use_ema
    ):
        raise ValueError(
            "make_private must compile with plain SGD inside of the DP "
            "optimizer, without momentum and weight decay. Received: "
            f"{type(inner).__name__}. What is audited is the noised sum, which "
            "any inner optimizer gets; plain SGD shows it as it is."
        )
    return float(keras.ops.convert_to_numpy(inner.learning_rate))


def _linear_loss(y_true, y_pred):
    return keras.ops.mean(y_true * y_pred, axis=-1)


def _make_dirac_model(num_canaries: int) -> keras.Model:
    """Returns a model in which each canary owns one weight, and all share one.

    The last row of the table takes the canaries that are out: they are in the
    data as rows that touch no canary's weight.
    """
    return keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            keras.layers.Embedding(
                num_canaries + 1, 1, embeddings_initializer="zeros"
            ),
            keras.layers.Reshape((1,)),
        ]
    )


def record_dirac_steps(
    make_private: Callable,
    *,
    is_member: np.ndarray,
    l2_norm_clip: float,
    expected_batch_size: float,
    num_steps: int,
) -> np.ndarray:
    """Returns what each step of real training released about each canary.

    Canary j has a gradient along one weight that no other canary touches, and
    one hundred times the clip long. With a correct step
        result[t, j] = included[t, j] * is_member[j] + N(0, noise_multiplier^2)

    Args:
        make_private: Called with a Keras model and a loss; returns the model,
            private, compiled with that loss and with plain SGD inside of the
            DP optimizer under audit.
        is_member: `[M]` bool; which canaries are in the training data.
        l2_norm_clip: The clip that the optimizer is said to have.
        expected_batch_size: Given to `fit`; in (0, M]. Canaries join a batch
            with probability expected_batch_size / M.
        num_steps: Steps to take; >= 1.

    Returns:
        `[num_steps, M]` float64, in units of the clip.

    Raises:
        ValueError: If an argument is out of range, the model is not compiled
            with plain SGD, or other steps ran than were asked for.
    """
    is_member = np.asarray(is_member, dtype=bool)
    num_canaries = len(is_member)
    l2_norm_clip = _checks.check_l2_norm_clip(l2_norm_clip)
    _checks.check_real(
        "expected_batch_size",
        expected_batch_size,
        above=0.0,
        at_most=num_canaries,
        hint="It is the sampling probability times the number of canaries.",
    )
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    model = make_private(_make_dirac_model(num_canaries), _linear_loss)
    _get_plain_rate(model.optimizer)
    owner = np.where(is_member, np.arange(num_canaries), num_canaries)
    pull = np.full((num_canaries, 1), -_GRADIENT_OVER_CLIP * l2_norm_clip)
    recorder = _StepRecorder(num_canaries)
    model.fit(
        owner.astype(np.int32)[:, None],
        pull.astype(np.float32),
        batch_size=expected_batch_size,
        epochs=1,
        steps_per_epoch=num_steps,
        callbacks=[recorder],
        verbose=0,
    )
    if len(recorder.steps) != num_steps:
        raise ValueError(
            f"make_private must give a model that takes {num_steps} steps, one "
            f"at a time. Received: {len(recorder.steps)} that could be seen. "
            "Compile with steps_per_execution=1 and without a budget."
        )
    return np.stack(recorder.steps) * (expected_batch_size / l2_norm_clip)


def audit_pipeline(
    make_private: Callable,
    *,
    noise_multiplier: float,
    l2_norm_clip: float,
    delta: float,
    num_canaries: int = 2000,
    expected_batch_size: float = 100.0,
    num_steps: int = 100,
    confidence: float = 0.95,
    claim: claim_lib.Claim | None = None,
    seed: int | None = None,
) -> report.AuditReport:
    """Returns whether real training steps keep what is claimed for them.

    It trains `num_canaries` canaries, each with a weight of its own, for
    `num_steps` steps: a few seconds on a CPU. See `make_pipeline_report` for
    what is checked, `record_dirac_steps` for the canaries.

    Run it on the machines, with the strategy and the versions that will train.

    Args:
        make_private: Called with a Keras model and a loss; returns the model,
            private, compiled with that loss and with plain SGD inside of the
            DP optimizer under audit.
        noise_multiplier: What the optimizer is said to have; > 0.
        l2_norm_clip: What the optimizer is said to have; gradient units.
        delta: Probability in (0, 1), for the epsilons that are shown.
        num_canaries: M >= 2; more see smaller errors.
        expected_batch_size: Given to `fit`; in (0, M].
        num_steps: Steps to take; >= 1.
        confidence: In (0, 1).
        claim: What is claimed for these steps; None takes the accountant's
            curve.
        seed: Of the coins that put canaries in; None takes fresh entropy. The
            noise is the optimizer's own.

    Raises:
        ValueError: If an argument is out of range, or the model cannot be
            audited.
    """
    num_canaries = _checks.check_integer(
        "num_canaries", num_canaries, at_least=2
    )
    steps = pipeline.ClaimedSteps(
        noise_multiplier=noise_multiplier,
        sampling_probability=expected_batch_size / num_canaries,
        num_steps=num_steps,
    )
    is_member = np.random.default_rng(seed).random(num_canaries) < 0.5
    observations = record_dirac_steps(
        make_private,
        is_member=is_member,
        l2_norm_clip=l2_norm_clip,
        expected_batch_size=expected_batch_size,
        num_steps=num_steps,
    )
    return pipeline.make_pipeline_report(
        observations,
        is_member=is_member,
        steps=steps,
        delta=delta,
        confidence=confidence,
        claim=claim,
    )
