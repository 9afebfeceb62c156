# SPDX-License-Identifier: Apache-2.0
"""How far each layer's gradient stands out of the noise, before training."""

import dataclasses
import math

import keras
import numpy as np

from tf_privacy import _checks
from tf_privacy.clipping import engine
from tf_privacy.clipping import layer_norms
from tf_privacy.clipping import microbatches
from tf_privacy.optimizers import dp_optimizer
from tf_privacy.training import poisson_dataset
from tf_privacy.training import signal_text

_QUANTILES = (0.1, 0.5, 0.9)
# Standard deviations from the estimate to the upper limit of a signal.
_UPPER_DEVIATIONS = 3.0
# A factor below it scales down; above it there is only rounding.
_UNCLIPPED = 1.0 - 1e-5
# The engine rounds norms up, that of zeros too. No clip is smaller than this.
_SMALLEST_NORM = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSignal:
    """Signal and noise of one layer in one step.

    Attributes:
        layer: Path of the layer that owns the weights.
        num_weights: Trainable ones.
        norm_quantiles: 10%, 50% and 90% quantile of the units' gradient norms
            in this layer before clipping; gradient units.
        clipped_fraction: Of units whose gradient in this layer is scaled down.
        signal: Estimated norm of the mean clipped gradient; gradient units.
            What the units have in common: chance agreement of few units is
            taken off, and where it is all there is, this is 0.
        signal_upper: An upper limit of it, 3 standard deviations above.
        noise: Root mean square norm of the noise on the mean gradient:
            noise_multiplier * l2_norm_clip * sqrt(num_weights)
            / expected_batch_size.
        num_steps: What `run_ratio` looks at.
    """

    layer: str
    num_weights: int
    norm_quantiles: tuple[float, float, float]
    clipped_fraction: float
    signal: float
    signal_upper: float
    noise: float
    num_steps: int

    @property
    def ratio(self) -> float:
        """signal / noise, in one step."""
        return self.signal / self.noise

    @property
    def run_ratio(self) -> float:
        """ratio * sqrt(num_steps): of a steady signal over all of training.

        Its square is about how many steps without noise all steps are worth,
        for a loss that is curved alike in all directions. Where few directions
        are curved, noise does less harm.
        """
        return self.ratio * math.sqrt(self.num_steps)

    @property
    def is_drowned(self) -> bool:
        """Whether noise is larger over all of training, at the upper limit.

        By that rule of thumb, all steps are then worth less than a single one
        without noise. A layer that no gradient reaches is not drowned: see
        `is_idle`.
        """
        upper = self.signal_upper / self.noise * math.sqrt(self.num_steps)
        return upper < 1.0 and not self.is_idle

    @property
    def is_idle(self) -> bool:
        """Whether nearly all units have a gradient of zero here."""
        return self.norm_quantiles[2] < _SMALLEST_NORM


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignalToNoise:
    """Signal and noise of every layer; `print` it.

    Computed from raw gradients: not covered by the guarantee.

    Attributes:
        layers: One `LayerSignal` each, in the model's order.
        total: The same over all layers together.
        l2_norm_clip: In force in the first step; gradient units.
        noise_multiplier: Of the optimizer.
        expected_batch_size: Units; what the noised sum is divided by.
        num_steps: Steps of the training that is planned.
        num_units: How many units were looked at.
        num_dropped: Of these, units with a gradient that is not finite; they
            count as zero.
    """

    layers: tuple[LayerSignal, ...]
    total: LayerSignal
    l2_norm_clip: float
    noise_multiplier: float
    expected_batch_size: float
    num_steps: int
    num_units: int
    num_dropped: int

    @property
    def drowned_layers(self) -> tuple[LayerSignal, ...]:
        """Layers whose noise is larger than their signal over all steps."""
        return tuple(each for each in self.layers if each.is_drowned)

    @property
    def median_norm(self) -> float:
        """Median of the units' gradient norms over all weights."""
        return self.total.norm_quantiles[1]

    def suggest(self) -> tuple[str, ...]:
        """Returns what to change, one sentence or two for each; may be none."""
        return signal_text.suggest(self)

    def to_dict(self) -> dict:
        """Returns plain values for JSON, what is derived among them."""
        values = dataclasses.asdict(self)
        values["total"] = _as_dict(self.total)
        values["layers"] = [_as_dict(each) for each in self.layers]
        values["suggestions"] = list(self.suggest())
        return values

    def __str__(self) -> str:
        return signal_text.describe(self)


def _as_dict(layer: LayerSignal) -> dict:
    values = dataclasses.asdict(layer)
    values["norm_quantiles"] = list(layer.norm_quantiles)
    for name in ("ratio", "run_ratio", "is_drowned", "is_idle"):
        values[name] = getattr(layer, name)
    return values


def estimate_signal_to_noise(
    model,
    x,
    y=None,
    sample_weight=None,
    *,
    num_steps: int,
    optimizer=None,
    expected_batch_size: float | None = None,
    loss=None,
) -> SignalToNoise:
    """Returns how each layer's gradient compares with the noise it will get.

    For the clipped gradients c[i] of n units, in one layer:
        signal^2 = mean of c[i] . c[j] over all pairs of different units
        noise^2 = (noise_multiplier * l2_norm_clip / expected_batch_size)^2
                  * num_weights
    The first is unbiased for the squared norm of the mean clipped gradient;
    the norm of the mean of n gradients is not: it is about norm / sqrt(n) even
    where units have nothing in common. Over num_steps steps a signal that
    stays the same adds up, noise only to its square root.

    No step is taken and no noise drawn: it looks at the model's present
    weights. The figures are raw: not covered by the guarantee. Take public or
    synthetic data of the same kind, or keep the figures to yourself.

    Args:
        model: A `keras.Model`, private or plain.
        x: A structure of arrays `[N, ...]`: a random sample of the training
            data, a few dozen units or more; all rows are used.
        y: A structure of arrays `[N, ...]`, or None.
        sample_weight: The same, or None.
        num_steps: Steps that training will take; >= 1. 1 looks at one step.
        optimizer: The `DPOptimizer`; None takes the one that the model was
            compiled with. A clip that moves is looked at where it starts.
        expected_batch_size: Units; > 0. None takes the optimizer's.
        loss: As in `clipped_gradients`; None takes the compiled one.

    Returns:
        A SignalToNoise.

    Raises:
        TypeError: If there is no DP optimizer.
        ValueError: If there are fewer than two units, or an argument is out of
            range.
    """
    num_steps = _checks.check_integer("num_steps", num_steps, at_least=1)
    optimizer = _choose_optimizer(model, optimizer)
    expected_batch_size = _checks.check_real(
        "expected_batch_size",
        expected_batch_size or optimizer.expected_batch_size or math.nan,
        above=0.0,
        hint="It is the mean number of units in a batch, and the divisor.",
    )
    data = keras.tree.map_structure(
        poisson_dataset.as_source, (x, y, sample_weight)
    )
    num_units = _count_units(data, optimizer.examples_per_unit)
    sums, norms, factors = _record(model, data, num_units, optimizer, loss)
    scale = optimizer.noise_multiplier * optimizer.l2_norm_clip

    def summarise(name, columns):
        return _summarise_layer(
            name,
            [sums[c] for c in columns],
            norms[:, columns],
            factors[:, columns],
            noise=scale / expected_batch_size,
            num_steps=num_steps,
        )

    names = layer_norms.layer_names(model.trainable_variables)
    by_layer = {}
    for column, name in enumerate(names):
        by_layer.setdefault(name, []).append(column)
    return SignalToNoise(
        layers=tuple(summarise(*each) for each in by_layer.items()),
        total=summarise("all layers", list(range(len(names)))),
        l2_norm_clip=optimizer.l2_norm_clip,
        noise_multiplier=optimizer.noise_multiplier,
        expected_batch_size=expected_batch_size,
        num_steps=num_steps,
        num_units=num_units,
        num_dropped=int(np.sum(~np.isfinite(norms).all(axis=1))),
    )


def _choose_optimizer(model, optimizer):
    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, dp_optimizer.DPOptimizer):
        raise TypeError(
            "optimizer must be a DP optimizer, whose noise is looked at. "
            f"Received: {type(optimizer).__name__}. Give one, such as "
            "tf_privacy.DPSGD(...), or compile a private model with it."
        )
    return optimizer


def _count_units(data, examples_per_unit: int) -> int:
    num_rows = poisson_dataset.check_lengths(data)
    num_units, rest = divmod(num_rows, examples_per_unit)
    if rest or num_units < 2:
        raise ValueError(
            "x must hold two or more whole units, of examples_per_unit="
            f"{examples_per_unit} rows each. Received: {num_rows} rows. Take a "
            "few dozen units."
        )
    return num_units


def _record(model, data, num_units, optimizer, loss):
    """Returns sums of clipped gradients, and each unit's norms and factors."""
    settings = engine.ClipSettings(
        style=optimizer.clipping_style,
        loss=loss,
        examples_per_unit=optimizer.examples_per_unit,
    )
    units_per_piece = microbatches.find_units_per_piece(
        model,
        engine.as_tensors(_take(data, np.arange(1)))[0],
        settings,
        microbatch_size=optimizer.microbatch_size,
        memory_limit=optimizer.memory_limit,
        expected_batch_size=num_units,
    )
    sums, norms, factors = None, [], []
    for start in range(0, num_units, units_per_piece or num_units):
        stop = min(start + (units_per_piece or num_units), num_units)
        rows = np.arange(
            start * settings.examples_per_unit,
            stop * settings.examples_per_unit,
        )
        step = layer_norms.clip_and_record(model, _take(data, rows), settings)
        norms.append(step.norms)
        factors.append(step.factors)
        if sums is None:
            sums = [np.zeros(g.shape) for g in step.gradients]
        for total, gradient in zip(sums, step.gradients, strict=True):
            total += gradient
    return sums, np.concatenate(norms), np.concatenate(factors)


def _take(data, rows):
    return keras.tree.map_structure(
        lambda s: None if s is None else poisson_dataset.take(s, rows), data
    )


def _summarise_layer(
    name, sums, norms, factors, *, noise: float, num_steps: int
) -> LayerSignal:
    """Returns the figures of one layer, or of several together.

    Args:
        name: What to call it.
        sums: The sum of clipped gradients of each of its variables.
        norms: `[U, V]` of each unit before clipping.
        factors: `[U, V]` of each unit.
        noise: Standard deviation on one entry of the mean gradient.
        num_steps: Steps of training.
    """
    count = len(norms)
    finite = np.isfinite(norms).all(axis=1)
    norms = np.where(finite[:, None], norms, 0.0)
    unit_norms = np.sqrt(np.sum(norms**2, axis=1))
    clipped = np.sum((factors * norms) ** 2, axis=1)
    squared_sum = sum(float(np.sum(np.square(each))) for each in sums)
    # The sum over all pairs of different units, over their number.
    agreement = (squared_sum - clipped.sum()) / (count * (count - 1))
    agreement = max(agreement, 0.0)
    # The variance of that mean is at most 4 s^2 m / n + 2 m^2 / n^2, with m the
    # mean squared norm: no direction varies by more than m.
    mean = clipped.mean()
    deviation = math.sqrt(4.0 * agreement * mean / count) + (
        math.sqrt(2.0) * mean / count
    )
    num_weights = sum(each.size for each in sums)
    return LayerSignal(
        layer=name,
        num_weights=num_weights,
        norm_quantiles=tuple(
            float(q) for q in np.quantile(unit_norms[finite], _QUANTILES)
        )
        if finite.any()
        else (0.0, 0.0, 0.0),
        clipped_fraction=float(
            np.mean(np.any((factors < _UNCLIPPED) & (norms > 0.0), axis=1))
        ),
        signal=math.sqrt(agreement),
        signal_upper=math.sqrt(agreement + _UPPER_DEVIATIONS * deviation),
        noise=noise * math.sqrt(num_weights),
        num_steps=num_steps,
    )
