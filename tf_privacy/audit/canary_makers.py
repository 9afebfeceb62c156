# SPDX-License-Identifier: Apache-2.0
"""Makes plans of canaries: texts, tokens, images, tables, wrong labels.

Each canary of a plan with coins is in or out by a fair coin of its own. Coins
and canaries come from separate streams of randomness: the operating system's,
or those of a `seed`, which whoever knows it can repeat: keep it as secret as
the plan. The odder a canary is, the more a model shows that it has seen it:
wrong labels and noise find more than rows that look like the rest.
"""

from collections.abc import Sequence

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import array_structures
from tf_privacy.audit import canaries
from tf_privacy.audit import canary_format
from tf_privacy.audit import canary_values
from tf_privacy.audit import class_labels

_PATTERNS = ("noise", "blocks", "dot")
_STYLES = {
    "marginals": canary_values.draw_marginals,
    "outliers": canary_values.draw_outliers,
}


def make_text_canaries(
    text_format: canary_format.CanaryFormat | str,
    *,
    num_canaries: int,
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns random secrets of a format, each in or out by a fair coin.

    Args:
        text_format: The format, or its template.
        num_canaries: M distinct secrets; >= 1.
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Raises:
        ValueError: If the format has not so many secrets, or a number is out
            of range.
    """
    return _make_secret_canaries(
        text_format,
        _check_count(num_canaries),
        _make_rngs(seed),
        repetitions,
        has_coins=True,
    )


def make_exposure_canaries(
    text_format: canary_format.CanaryFormat | str,
    *,
    repetitions: Sequence[int] = (1, 3, 10, 30),
    num_each: int = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns random secrets of a format, all in, each a known number of times.

    Exposure against repetitions shows how often a secret must occur until the
    model gives it away. There are no coins, and so no bound on epsilon.

    Args:
        text_format: The format, or its template.
        repetitions: Numbers of copies; each >= 1.
        num_each: Distinct secrets for each of these numbers; >= 1.
        seed: None draws from the operating system's entropy.

    Raises:
        ValueError: If the format has not so many secrets, or a number is out
            of range.

    Source: Carlini et al. 2019, arXiv:1802.08232, Section 4.
    """
    num_each = _checks.check_integer("num_each", num_each, at_least=1)
    counts = np.repeat(np.atleast_1d(repetitions), num_each)
    return _make_secret_canaries(
        text_format,
        _check_count(len(counts)),
        _make_rngs(seed),
        counts,
        has_coins=False,
    )


def make_token_canaries(
    *,
    vocabulary_size: int,
    length: int,
    num_canaries: int,
    reserved_tokens: Sequence[int] = (),
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns sequences of random tokens, each in or out by a fair coin.

    Insert them into the whole sequences, before these are split into inputs
    and next tokens.

    Args:
        vocabulary_size: Tokens are in [0, vocabulary_size); >= 2.
        length: L; tokens of each canary; >= 1.
        num_canaries: M; >= 1.
        reserved_tokens: Tokens that never come: padding, start, end.
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Returns:
        A plan whose values are `[M, L]` int32, independent and uniform.

    Raises:
        ValueError: If a number is out of range, or all tokens but one are
            reserved.
    """
    num_canaries = _check_count(num_canaries)
    size = _checks.check_integer(
        "vocabulary_size", vocabulary_size, at_least=2, at_most=2**31 - 1
    )
    length = _checks.check_integer("length", length, at_least=1)
    reserved = [
        _checks.check_integer(
            "reserved_tokens", t, at_least=0, at_most=size - 1
        )
        for t in reserved_tokens
    ]
    allowed = np.delete(np.arange(size, dtype=np.int32), reserved)
    if allowed.size < 2:
        raise ValueError(
            "reserved_tokens must leave two tokens or more. Received: "
            f"{len(set(reserved))} of {size}. Random sequences need a choice."
        )
    rng, coin_rng = _make_rngs(seed)
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng,
        kind="token",
        description=f"{length} random tokens each, of {allowed.size}",
        values=allowed[rng.integers(allowed.size, size=(num_canaries, length))],
    )


def make_image_canaries(
    shape: Sequence[int],
    *,
    num_canaries: int,
    pattern: str = "noise",
    low: float = 0.0,
    high: float | None = None,
    dtype: str = "float32",
    y=None,
    num_classes: int | None = None,
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns images like no other, each in or out by a fair coin.

    "noise" draws each pixel on its own, uniform in [low, high]; "blocks" fills
    squares, 8 to a side, with `low` or `high`; "dot" is blank (`low`) but for
    one pixel (`high`), another one for each canary as long as there are some.

    Args:
        shape: Of one image, without the batch: (height, width, channels), say.
        num_canaries: M; >= 1.
        pattern: "noise", "blocks" or "dot".
        low, high: Darkest and brightest value, as the model takes them; None
            is 1 for floats, and must be given for integers.
        dtype: Of the values; float or integer.
        y: Labels of your data, `[N]`, `[N, 1]` or one-hot: those of canaries
            are random classes in the same form. None: no labels.
        num_classes: K >= 2; given if and only if `y` is.
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Returns:
        A plan whose values are `[M, *shape]`.

    Raises:
        ValueError: If an argument is out of range, or `y` of another form.
    """
    num_canaries = _check_count(num_canaries)
    pattern = _checks.check_choice("pattern", pattern, _PATTERNS)
    shape = tuple(_checks.check_integer("shape", s, at_least=1) for s in shape)
    dtype = np.dtype(dtype)
    if high is None:
        high = 1.0 if dtype.kind == "f" else None
    low, high = canary_values.check_range(low, high, dtype=dtype)
    if (y is None) != (num_classes is None):
        raise ValueError(
            "num_classes must be given if and only if y is. Received: "
            f"{num_classes!r}. Random labels need both."
        )
    rng, coin_rng = _make_rngs(seed)
    labels = None
    if y is not None:
        # Only the form is used, but labels of another kind are a mistake.
        class_labels.decode_classes(y, num_classes=num_classes)
        classes = rng.integers(num_classes, size=num_canaries)
        labels = class_labels.encode_classes(
            classes, like=y, num_classes=num_classes
        )
    values = canary_values.draw_images(
        (num_canaries, *shape),
        pattern=pattern,
        low=low,
        high=high,
        dtype=dtype,
        rng=rng,
    )
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng,
        kind="image",
        description=f"{pattern} from {low:g} to {high:g}, of shape {shape}",
        values=values,
        labels=labels,
    )


def make_tabular_canaries(
    x,
    y=None,
    *,
    num_canaries: int,
    style: str = "marginals",
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns rows made of your columns, each in or out by a fair coin.

    "marginals" takes each number of a row from another random row of the same
    column: plausible one by one, new together. "outliers" draws it one to two
    ranges of the column beyond its least or largest number. Labels are those
    of random rows. All are made of your data: the plan is as secret as it.

    Args:
        x: Nested tuples and dicts of arrays `[N, ...]`; floats for outliers.
        y: The same, the labels; None without.
        num_canaries: M; >= 1.
        style: "marginals" or "outliers".
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Raises:
        TypeError: If `x` or `y` is no structure of arrays.
        ValueError: If an argument is out of range, or outliers are asked of
            columns that are no finite floats.
    """
    num_canaries = _check_count(num_canaries)
    style = _checks.check_choice("style", style, _STYLES)
    data = {"x": x} if y is None else {"x": x, "y": y}
    data = {k: array_structures.check_arrays(k, v) for k, v in data.items()}
    num_rows = array_structures.count_rows(**data)
    if not num_rows >= 1:
        raise ValueError("x must hold at least one row. Received: none.")
    rng, coin_rng = _make_rngs(seed)
    labels = None
    if y is not None:
        rows = rng.integers(num_rows, size=num_canaries)
        labels = array_structures.take_rows(data["y"], rows)
    leaves = array_structures.flatten(data["x"], name="x").values()
    drawn = [_STYLES[style](num_canaries, leaf, rng=rng) for leaf in leaves]
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng,
        kind="tabular",
        description=f"{style} of each column on its own",
        values=array_structures.rebuild(data["x"], iter(drawn)),
        labels=labels,
    )


def make_mislabeled_canaries(
    x,
    y,
    *,
    num_canaries: int,
    num_classes: int,
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns rows of your data with a wrong label, in or out by a fair coin.

    Rows are drawn without repeats, wrong labels uniform over the other classes.
    `insert` takes those rows out of the data whatever the coins are, so that
    the coin alone decides whether the model sees anything of the row.

    Args:
        x: Nested tuples and dicts of arrays `[N, ...]`.
        y: `[N]`, `[N, 1]` or one-hot `[N, num_classes]`; the true labels.
        num_canaries: M; in [1, N].
        num_classes: K; >= 2.
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Raises:
        TypeError: If `x` is no structure of arrays.
        ValueError: If an argument is out of range, or `y` of another form.
    """
    x = array_structures.check_arrays("x", x)
    y = array_structures.check_arrays("y", np.asarray(y))
    num_rows = array_structures.count_rows(x=x, y=y)
    true = class_labels.decode_classes(y, num_classes=num_classes)
    num_canaries = _checks.check_integer(
        "num_canaries",
        num_canaries,
        at_least=1,
        at_most=num_rows,
        hint="Each canary takes one row of the data.",
    )
    rng, coin_rng = _make_rngs(seed)
    rows = rng.choice(num_rows, size=num_canaries, replace=False)
    shifts = rng.integers(1, num_classes, size=num_canaries)
    wrong = (true[rows] + shifts) % num_classes
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng,
        kind="mislabeled",
        description=f"rows of the data, a wrong label of {num_classes}",
        values=array_structures.take_rows(x, rows),
        labels=class_labels.encode_classes(
            wrong, like=y, num_classes=num_classes
        ),
        source_rows=rows,
    )


def make_custom_canaries(
    values,
    labels=None,
    *,
    repetitions: int | Sequence[int] = 1,
    seed: int | None = None,
) -> canaries.Canaries:
    """Returns canaries of your own, each in or out by a fair coin.

    None of them may be in your data already.

    Args:
        values: Nested tuples and dicts of arrays `[M, ...]`, or `[M]` texts.
        labels: The same for labels; None without.
        repetitions: Copies of one that is in, for all or for each `[M]`; >= 1.
        seed: None draws from the operating system's entropy.

    Raises:
        TypeError: If they are no structures of arrays.
        ValueError: If lengths differ, or there is none.
    """
    if isinstance(values, list | tuple) and all(
        isinstance(value, str) for value in values
    ):
        num_canaries = _check_count(len(values))
    else:
        values = array_structures.check_arrays("values", values)
        num_canaries = _check_count(array_structures.count_rows(values=values))
    _, coin_rng = _make_rngs(seed)
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng,
        kind="custom",
        description="the user's own",
        values=values,
        labels=labels,
    )


def _make_secret_canaries(
    text_format, num_canaries, rngs, repetitions, *, has_coins
) -> canaries.Canaries:
    if isinstance(text_format, str):
        text_format = canary_format.CanaryFormat(text_format)
    rng, coin_rng = rngs
    indices = text_format.sample_indices(num_canaries, rng=rng)
    return _make_plan(
        num_canaries,
        repetitions,
        coin_rng if has_coins else None,
        kind="text",
        description=f"secrets of {text_format.template!r}, "
        f"2^{text_format.log2_size:.1f} of them",
        values=text_format.make_secrets(indices),
        text_format=text_format,
        secret_indices=indices,
    )


def _make_plan(
    num_canaries, repetitions, coin_rng, **fields
) -> canaries.Canaries:
    """Returns the plan; without a source of coins all canaries are in."""
    coins = np.ones(num_canaries, dtype=bool)
    if coin_rng is not None:
        coins = coin_rng.integers(2, size=num_canaries).astype(bool)
    repetitions = np.asarray(repetitions)
    if repetitions.ndim == 0:
        repetitions = np.full(num_canaries, repetitions)
    return canaries.Canaries(
        is_member=coins,
        has_coins=coin_rng is not None,
        repetitions=repetitions,
        **fields,
    )


def _check_count(num_canaries) -> int:
    return _checks.check_integer("num_canaries", num_canaries, at_least=1)


def _make_rngs(seed: int | None) -> list[np.random.Generator]:
    """Returns the sources of canaries and of coins, independent streams.

    They are children of the seed's own stream, which a caller may use for
    other things.
    """
    if seed is not None:
        seed = _checks.check_integer("seed", seed, at_least=0)
    return np.random.default_rng(seed).spawn(2)
