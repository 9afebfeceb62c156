# SPDX-License-Identifier: Apache-2.0
"""The randomness space R: all the secrets that a format allows."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_privacy import _checks

# A draw of this many candidates refutes a wrong `num_accepted`.
_MIN_DRAW = 1024
_MAX_DRAW = 1_000_000
# Standard deviations; a true `num_accepted` gets beyond with chance < 1e-14.
_MAX_DEVIATIONS = 8.0
_MAX_DRAWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecretSpace:
    """All secrets of one format: what could have stood in the canary's place.

    A secret is one token for each entry of `choices`, in that order; the whole
    sequence that the model sees is the prefix and then the secret. Fixed text
    within or after the secret is a position with one choice.

    Attributes:
        prefix: `[P]` tokens before the secret, each >= 0.
        choices: `[L]` tuples of distinct tokens, the ones allowed at each
            position of the secret; none of them empty.
        accepts: Maps complete secrets `[B, L]` int32, without the prefix, to
            `[B]` bool: which of them exist (a checksum, say). None: all do.
        num_accepted: How many secrets `accepts` lets through, exactly: too low
            a number hides exposure. None if and only if `accepts` is.
    """

    prefix: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    accepts: Callable[[np.ndarray], np.ndarray] | None = None
    num_accepted: int | None = None

    def __post_init__(self):
        prefix = _check_tokens("prefix", self.prefix)
        choices = tuple(_check_tokens("choices", c) for c in self.choices)
        for position, tokens in enumerate(choices):
            if not tokens or len(set(tokens)) != len(tokens):
                raise ValueError(
                    "choices must hold one or more distinct tokens for each "
                    f"position. Received: {tokens!r} at position {position}."
                )
        if not choices:
            raise ValueError(
                "choices must hold at least one position. Received: none. Give "
                "the tokens that each position of the secret may take."
            )
        if (self.accepts is None) != (self.num_accepted is None):
            raise ValueError(
                "num_accepted must be given if and only if accepts is. "
                f"Received: {self.num_accepted!r} and {self.accepts!r}. Count "
                "the secrets that pass; exposure is relative to that number."
            )
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "choices", choices)
        if self.num_accepted is not None:
            accepted = _checks.check_integer(
                "num_accepted",
                self.num_accepted,
                at_least=1,
                at_most=self.num_combinations,
            )
            object.__setattr__(self, "num_accepted", accepted)

    @property
    def length(self) -> int:
        """Returns the number of tokens of a secret, without the prefix."""
        return len(self.choices)

    @property
    def num_combinations(self) -> int:
        """Returns how many secrets there are before `accepts` is asked."""
        return math.prod(len(c) for c in self.choices)

    @property
    def size(self) -> int:
        """Returns |R|, the exact number of secrets."""
        if self.num_accepted is None:
            return self.num_combinations
        return self.num_accepted

    @property
    def log2_size(self) -> float:
        """Returns log2 |R|, the largest possible exposure, in bits."""
        return math.log2(self.size)

    def find_accepted(self, secrets: np.ndarray) -> np.ndarray:
        """Returns which secrets exist, for combinations of the choices.

        Args:
            secrets: `[B, L]` int; each token among its position's choices.

        Returns:
            `[B]` bool.

        Raises:
            ValueError: If `accepts` returns anything else.
        """
        if self.accepts is None or not len(secrets):
            return np.ones(len(secrets), dtype=bool)
        accepted = np.asarray(self.accepts(secrets))
        if accepted.shape != (len(secrets),) or accepted.dtype != bool:
            raise ValueError(
                "accepts must return a vector of bool, one for each secret. "
                f"Received: {accepted.dtype} of shape {accepted.shape} for "
                f"{len(secrets)} secrets."
            )
        return accepted

    def check_secrets(self, secrets) -> np.ndarray:
        """Returns secrets as an array once all of them are in the space.

        Args:
            secrets: `[S, L]` int; without the prefix; S >= 1.

        Returns:
            `[S, L]` int32.

        Raises:
            ValueError: If one is not in the space: it has no rank there.
        """
        array = np.asarray(secrets)
        if not (
            array.ndim == 2
            and array.shape[0] >= 1
            and array.shape[1] == self.length
            and array.dtype.kind in "iu"
        ):
            raise ValueError(
                f"secrets must be whole numbers [count, {self.length}], one "
                f"secret a row. Received: {array.dtype} of shape "
                f"{array.shape}. Leave the prefix out."
            )
        allowed = [np.isin(array[:, i], c) for i, c in enumerate(self.choices)]
        array = array.astype(np.int32)
        inside = np.all(allowed, axis=0)
        inside[inside] = self.find_accepted(array[inside])
        if not np.all(inside):
            row = int(np.flatnonzero(~inside)[0])
            raise ValueError(
                "secrets must be in the space. Received: "
                f"{array[row].tolist()} in row {row}. Its format, or its "
                "checksum, is not the space's."
            )
        return array

    def prepend_prefix(self, secrets: np.ndarray) -> np.ndarray:
        """Returns the sequences that the model sees.

        Args:
            secrets: `[B, D]` int; whole secrets or their first D tokens.

        Returns:
            `[B, P + D]` int32.
        """
        head = np.tile(np.array(self.prefix, dtype=np.int32), (len(secrets), 1))
        return np.concatenate([head, secrets.astype(np.int32)], axis=1)

    def sample(
        self, num_samples: int, *, rng: np.random.Generator
    ) -> np.ndarray:
        """Returns independent secrets, uniform over the space, repeats allowed.

        Args:
            num_samples: N; >= 0.
            rng: Source of the draws.

        Returns:
            `[N, L]` int32.

        Raises:
            ValueError: If the share that `accepts` lets through refutes
                `num_accepted`, or is too small to draw from.
        """
        num_samples = _checks.check_integer(
            "num_samples", num_samples, at_least=0
        )
        if self.accepts is None:
            return self._combine(num_samples, rng)
        share = self.num_accepted / self.num_combinations
        wanted, most = 1.2 * num_samples, _MAX_DRAW
        size = int(wanted / share) if wanted < most * share else most
        size = max(_MIN_DRAW, size)
        found, drawn, kept = [], 0, 0
        while kept < num_samples:
            candidates = self._combine(size, rng)
            found.append(candidates[self.find_accepted(candidates)])
            drawn += size
            kept += len(found[-1])
            self._check_share(share, kept, drawn)
            if drawn >= _MAX_DRAWS * size:
                raise ValueError(
                    "num_accepted must be a share of the combinations that "
                    f"can be drawn from. Received: {self.num_accepted} of "
                    f"{self.num_combinations}. Put part of the check into "
                    "choices."
                )
        whole = np.concatenate([*found, np.zeros((0, self.length), np.int32)])
        return whole[:num_samples]

    def _combine(self, count, rng) -> np.ndarray:
        columns = [
            np.array(c, dtype=np.int32)[rng.integers(len(c), size=count)]
            for c in self.choices
        ]
        return np.stack(columns, axis=1)

    def _check_share(self, share, kept, drawn) -> None:
        # Bernstein: beyond this with probability < 2 exp(-_MAX_DEVIATIONS^2/2).
        margin = _MAX_DEVIATIONS * math.sqrt(drawn * share * (1.0 - share))
        if not abs(kept - drawn * share) <= margin + _MAX_DEVIATIONS**2:
            raise ValueError(
                "num_accepted must be the number of secrets that accepts lets "
                f"through. Received: {self.num_accepted}, of "
                f"{self.num_combinations} combinations, but {kept} of {drawn} "
                "random ones pass. Count them anew."
            )


def _check_tokens(name: str, tokens) -> tuple[int, ...]:
    array = np.asarray(tokens)
    if array.size == 0:
        return ()
    in_range = array.ndim == 1 and array.dtype.kind in "iu"
    if not (in_range and array.min() >= 0 and array.max() < 2**31):
        raise ValueError(
            f"{name} must hold tokens, whole numbers in [0, 2^31). Received: "
            f"{tokens!r}."
        )
    return tuple(array.tolist())
