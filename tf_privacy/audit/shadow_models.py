# SPDX-License-Identifier: Apache-2.0
"""Shadow models: who is trained on what, with results that survive a stop.

Models come in pairs that share the examples out at random: each is trained on
one half, its partner on the other. So all models see as much data, and each
example is in exactly half of them. Pairs are independent of one another; a
model that plays the target is left out together with its partner, whose data
would give the target's away.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np

from tf_privacy import _checks
from tf_privacy.audit import shadow_arrays
from tf_privacy.audit import shadow_files


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ShadowScores:
    """The scores of all examples by all shadow models.

    Attributes:
        scores: `[S, N]` or `[S, A, N]` float64; models 2 i and 2 i + 1 are
            partners.
        is_member: `[S, N]` bool; whether model s was trained on example n.

    Raises:
        TypeError: If scores are not real numbers, or `is_member` not bool.
        ValueError: If shapes differ, a score is not finite, or two partners do
            not share the examples out.
    """

    scores: np.ndarray
    is_member: np.ndarray

    def __post_init__(self):
        shape = np.shape(self.scores)
        if len(shape) not in (2, 3) or shape[0] < 2 or shape[0] % 2:
            raise ValueError(
                "scores must be [S, N] or [S, A, N] of an even number of "
                f"models S. Received: shape {shape}."
            )
        scores = shadow_arrays.check_matrix("scores", self.scores, shape=shape)
        member = shadow_arrays.check_membership(
            self.is_member, shape=(shape[0], shape[-1])
        )
        if not np.all(member[0::2] ^ member[1::2]):
            raise ValueError(
                "is_member must have each example in just one of the models 2 "
                "i and 2 i + 1. Received: another table. Make it with "
                "make_membership_table."
            )
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "is_member", member)

    def __str__(self) -> str:
        num_models, *augmentations, num_examples = self.scores.shape
        views = f", {augmentations[0]} views each" if augmentations else ""
        return (
            f"Scores of {num_examples} examples{views} by {num_models} shadow "
            f"models; each example is in {num_models // 2} of them"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LeftOutModel:
    """A shadow model in the place of the target, and the models left over.

    Attributes:
        index: Of the model that is attacked.
        target_scores: `[N]` or `[A, N]` float64; its scores.
        is_target_member: `[N]` bool; the answer: what it was trained on.
        shadow_scores: `[S - 2, N]` or `[S - 2, A, N]` float64; those of all
            models but it and its partner.
        is_member: `[S - 2, N]` bool; what they were trained on.
    """

    index: int
    target_scores: np.ndarray
    is_target_member: np.ndarray
    shadow_scores: np.ndarray
    is_member: np.ndarray

    def __str__(self) -> str:
        return (
            f"Model {self.index} as the target, {len(self.is_member)} shadow "
            "models"
        )


def make_membership_table(
    *, num_examples: int, num_models: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns which model is trained on which example, in random halves.

    Rows 2 i and 2 i + 1 are partners: the one is the opposite of the other. Of
    an odd number of examples the first has one less.

    Args:
        num_examples: N >= 2.
        num_models: S, even and >= 2.
        rng: Draws the halves.

    Returns:
        `[S, N]` bool.

    Raises:
        ValueError: If a number is out of range, or `num_models` is odd.
    """
    num_examples = _checks.check_integer(
        "num_examples", num_examples, at_least=2
    )
    num_models = _checks.check_integer("num_models", num_models, at_least=2)
    if num_models % 2:
        raise ValueError(
            "num_models must be even, so that each example is in half of "
            f"them. Received: {num_models}."
        )
    is_first_half = np.arange(num_examples) < num_examples // 2
    halves = np.tile(is_first_half, (num_models // 2, 1))
    halves = rng.permuted(halves, axis=1)
    return np.stack([halves, ~halves], axis=1).reshape(num_models, -1)


def train_shadow_models(
    train: Callable[[np.ndarray, int], np.ndarray],
    *,
    num_examples: int,
    num_models: int,
    directory: str | os.PathLike,
    seed: int | None = None,
    settings: Mapping | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ShadowScores:
    """Returns the scores of shadow models, trained once and kept in files.

    Each model's scores are written when they are there, in one move. After a
    stop the same call trains only what is missing. Files of other settings, or
    damaged ones, are refused before anything is trained.

    Args:
        train: Takes the rows to train on, `[n]` int64 rising, and the model's
            index; trains as the target was trained, and returns its scores of
            all examples, `[N]` or `[A, N]`, higher for members.
        num_examples: N >= 2.
        num_models: S, even and >= 2; 4 or more to leave one out.
        directory: Where the files are; made if it does not exist.
        seed: Of the halves; None draws them from the operating system's
            entropy, once: they are kept in the directory.
        settings: What else makes the scores what they are (data, model,
            epochs), by name: text, numbers, lists. A directory with others is
            refused.
        progress: Gets the number of models done and in all.

    Returns:
        The scores, and who was trained on what.

    Raises:
        TypeError: If `train` returns no real numbers, or a setting cannot be
            written as JSON.
        ValueError: If `train` returns scores of another shape or not finite,
            or the directory holds other settings or a damaged file.
    """
    table = make_membership_table(
        num_examples=num_examples,
        num_models=num_models,
        rng=np.random.default_rng(seed),
    )
    files = shadow_files.open_directory(
        pathlib.Path(directory),
        is_member=table,
        settings={
            "num_examples": num_examples,
            "num_models": num_models,
            "seed": seed,
            "settings": dict(settings or {}),
        },
    )
    found = {index: files.read(index) for index in files.list_models()}
    missing = [index for index in range(num_models) if index not in found]
    if progress is not None:
        progress(len(found), num_models)
    for index in missing:
        scores = train(np.flatnonzero(files.is_member[index]), index)
        found[index] = _check_trained(scores, index, num_examples, found)
        files.write(index, found[index])
        if progress is not None:
            progress(len(found), num_models)
    scores = np.stack([found[index] for index in range(num_models)])
    return ShadowScores(scores=scores, is_member=files.is_member)


def _check_trained(scores, index: int, num_examples: int, found) -> np.ndarray:
    """Returns what `train` returned, once it is like the others."""
    shape = np.shape(scores)
    wanted = next((each.shape for each in found.values()), shape)
    if shape != wanted or len(shape) not in (1, 2) or shape[-1] != num_examples:
        like = "" if shape == wanted else f", as other models: {wanted}"
        raise ValueError(
            f"train must return scores [N] or [A, N] of all {num_examples} "
            f"examples{like}. Received: shape {shape} from model {index}."
        )
    name = f"scores that train returned for model {index}"
    return shadow_arrays.check_matrix(name, scores, shape=shape)


def leave_one_model_out(shadows: ShadowScores) -> Iterator[LeftOutModel]:
    """Yields each model in turn as the target, without it and its partner.

    What is left does not depend on what the target was trained on, so that an
    attack that gets it sees the target's membership in the scores only.

    Args:
        shadows: Of 4 models or more.

    Raises:
        ValueError: If there are fewer models.
    """
    num_models = len(shadows.is_member)
    if num_models < 4:
        raise ValueError(
            "shadows must be of 4 models or more to leave one and its partner "
            f"out. Received: {num_models} models."
        )
    return (_leave_out(shadows, index) for index in range(num_models))


def _leave_out(shadows: ShadowScores, index: int) -> LeftOutModel:
    is_left = np.arange(len(shadows.is_member)) // 2 != index // 2
    return LeftOutModel(
        index=index,
        target_scores=shadows.scores[index],
        is_target_member=shadows.is_member[index],
        shadow_scores=shadows.scores[is_left],
        is_member=shadows.is_member[is_left],
    )
