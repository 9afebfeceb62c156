# SPDX-License-Identifier: Apache-2.0
"""Ratings for the recommender tutorial: made up, or those of MovieLens.

The made-up ones and the split are the same in every run.
"""

import dataclasses

import numpy as np

_SEED = 0
_TEST_FRACTION = 0.2
HISTORY_LENGTH = 20
# The middle of the scale: known without looking at any rating.
MIDDLE = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratings:
    """Who gave which item how many stars; one row for each rating.

    Attributes:
        users: `[N]` int32 in [0, num_users).
        items: `[N]` int32 in [0, num_items).
        stars: `[N]` float32 in [1, 5].
        num_users: How many users there are, with and without ratings here.
        num_items: How many items there are.
    """

    users: np.ndarray
    items: np.ndarray
    stars: np.ndarray
    num_users: int
    num_items: int

    def take(self, rows: np.ndarray) -> "Ratings":
        """Returns some of the ratings.

        Args:
            rows: Their numbers, or a mask.
        """
        return dataclasses.replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            stars=self.stars[rows],
        )


def make_ratings(*, num_users: int, num_items: int, num_each: int) -> Ratings:
    """Returns made-up ratings: a few tastes, and items that suit them.

    Args:
        num_users: How many people.
        num_items: How many things to rate.
        num_each: How many different ones each person rates.
    """
    rng = np.random.default_rng(_SEED)
    # Some items are rated by many, most by few.
    popularity = 1.0 / np.arange(3, num_items + 3)
    keys = rng.gumbel(size=(num_users, num_items)) + np.log(popularity)
    items = np.argsort(-keys, axis=1)[:, :num_each].ravel()
    users = np.repeat(np.arange(num_users), num_each)
    tastes = rng.normal(size=(num_users, 3))
    traits = rng.normal(0, 0.45, size=(num_items, 3))
    stars = (
        3.5
        + rng.normal(0, 0.4, num_users)[users]
        + rng.normal(0, 0.5, num_items)[items]
        + np.sum(tastes[users] * traits[items], axis=1)
        + rng.normal(0, 0.5, len(users))
    )
    return Ratings(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        stars=np.clip(np.round(stars), 1, 5).astype(np.float32),
        num_users=num_users,
        num_items=num_items,
    )


def load_ratings(path: str) -> Ratings:
    """Returns the ratings of a MovieLens file in RecBole's form.

    Args:
        path: Of a table with tabs, a line of names, then user, item, rating.

    Raises:
        ValueError: If the file holds no such table.
    """
    table = np.loadtxt(path, skiprows=1, usecols=(0, 1, 2))
    users, items = (
        np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1)
    )
    return Ratings(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        stars=table[:, 2].astype(np.float32),
        num_users=int(users.max()) + 1,
        num_items=int(items.max()) + 1,
    )


def split(ratings: Ratings) -> tuple[Ratings, Ratings]:
    """Returns ratings to train on and to test on, of every user.

    Args:
        ratings: All of them.
    """
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(ratings.users))
    is_test = rng.random(len(order)) < _TEST_FRACTION
    return ratings.take(order[~is_test]), ratings.take(order[is_test])


def make_histories(
    known: Ratings,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each user has rated, and how: 0 stars where there is none.

    Args:
        known: The ratings to train on; of each user, the first few are taken.

    Returns:
        Two of `[num_users, HISTORY_LENGTH]`: items, and stars.
    """
    items = np.zeros((known.num_users, HISTORY_LENGTH), np.int32)
    stars = np.zeros((known.num_users, HISTORY_LENGTH), np.float32)
    counts = np.zeros(known.num_users, int)
    for user, item, given in zip(
        known.users, known.items, known.stars, strict=True
    ):
        if counts[user] < HISTORY_LENGTH:
            items[user, counts[user]] = item
            stars[user, counts[user]] = given
            counts[user] += 1
    return items, stars


def make_rows(ratings: Ratings, histories) -> dict[str, np.ndarray]:
    """Returns a model's inputs: the item, and whose rating is asked for.

    The rating itself is left out of the user's history. What else is computed
    of a history is computed of that user's ratings alone: a mean over all users
    would need noise of its own.

    Args:
        ratings: Those to predict.
        histories: From `make_histories`.
    """
    items, stars = (table[ratings.users] for table in histories)
    rated = (stars > 0) & (items != ratings.items[:, np.newaxis])
    count = rated.sum(axis=1, keepdims=True)
    # One rating in the middle for everybody, so that no history is empty.
    mean = (np.sum(stars * rated, axis=1, keepdims=True) + MIDDLE) / (count + 1)
    opinions = (stars - mean) * rated / np.sqrt(count + 1)
    return {
        "user": ratings.users,
        "item": ratings.items,
        "history": items,
        "opinions": opinions.astype(np.float32),
        "mean": mean.astype(np.float32),
    }


def compute_rmse(predicted: np.ndarray, stars: np.ndarray) -> float:
    """Returns the root of the mean squared error, in stars.

    Args:
        predicted: Of any shape; cut to the scale of 1 to 5.
        stars: As many, given by the users.
    """
    error = np.clip(np.ravel(predicted), 1, 5) - stars
    return float(np.sqrt(np.mean(error**2)))
