# SPDX-License-Identifier: Apache-2.0
"""What does a spam filter remember of the mails it learned from?

    python tutorials/text_dpadam.py                      # under a minute
    python tutorials/text_dpadam.py --target_epsilon=1
    python tutorials/text_dpadam.py --data=package/data  # see mails.py

A table of word vectors is a list of the words that somebody wrote: training
leaves the vectors of all other words where they were. And what a rare word
stands next to can be read from the answers. Both are shown on a filter that is
trained twice, by Adam and by DP-Adam: how many vectors never moved, and how
well it can be told which of some made-up mails ("canaries": three numbers that
nobody else wrote, a label drawn at random) were among the training mails.

Two things hold for any private training on text. The list of words must not be
made from the data, so words are hashed. And DP-Adam adds noise to each vector
at every step, of a word that was used or not: keep the table small.

For language models, which can recite, see secret_sharer.py.
"""

import dataclasses
import math
import time

import checks
import keras
import mails
import numpy as np
from absl import app
from absl import flags
from keras import layers

import tf_privacy
from tf_privacy import audit

_DATA = flags.DEFINE_string(
    "data", None, "Folder of SpamAssassin's mails. Default: made-up mails."
)
_NUM_CANARIES = flags.DEFINE_integer(
    "num_canaries", 500, "In or out by a fair coin each.", lower_bound=10
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What the private filter may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-6, "Below 1 / training mails.")
_EPOCHS = flags.DEFINE_integer(
    "epochs", 20, "Passes over the mails.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on 400 mails for two epochs, to see that it runs."
)

_SEED = 0
_NUM_MAILS = 6000
_TEST_FRACTION = 0.25
_NUM_WORDS = 4096
_LENGTH = 100
_CANARY = "{digit:6} {digit:6} {digit:6}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
    """A trained spam filter.

    Attributes:
        model: Gives one logit, of spam.
        num_unmoved: Word vectors that training left as they were.
        accuracy: On the test mails; in [0, 1].
    """

    model: keras.Model
    num_unmoved: int
    accuracy: float


def encode(texts) -> np.ndarray:
    """Returns the words' numbers.

    Args:
        texts: Mails.
    """
    return mails.encode(texts, num_words=_NUM_WORDS, length=_LENGTH)


def make_canaries(num_canaries: int) -> audit.Canaries:
    """Returns mails like no other, each in or out by a fair coin.

    Args:
        num_canaries: How many, in and out together.
    """
    texts = audit.make_text_canaries(_CANARY, num_canaries=num_canaries).values
    labels = np.random.default_rng().integers(2, size=num_canaries)
    return audit.make_custom_canaries(encode(texts), labels.astype(np.int32))


def make_model() -> keras.Model:
    """Returns a filter that averages the vectors of a mail's words."""
    return keras.Sequential(
        [
            keras.Input((_LENGTH,), dtype="int32"),
            layers.Embedding(_NUM_WORDS, 16, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )


def make_dp_adam(num_examples: int, *, batch_size: int, epochs: int, epsilon):
    """Returns a DP-Adam that spends the given epsilon.

    Args:
        num_examples: Mails to train on.
        batch_size: Expected size.
        epochs: Passes over the mails.
        epsilon: What may be spent, at the flag's delta.
    """
    return tf_privacy.DPAdam(
        0.03,
        l2_norm_clip=0.3,
        noise_multiplier=tf_privacy.calibrate_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=_DELTA.value,
            sampling_probability=batch_size / num_examples,
            num_steps=math.ceil(num_examples / batch_size) * epochs,
        ),
    )


def train(train_data, test_data, *, epochs: int, epsilon=None) -> Filter:
    """Returns a trained filter.

    Args:
        train_data: Numbers of words, and labels.
        test_data: The same.
        epochs: Passes over the mails.
        epsilon: What may be spent; None trains without privacy.
    """
    keras.utils.set_random_seed(_SEED)
    x, y = train_data
    model = make_model()
    batch_size, optimizer = 64, keras.optimizers.Adam(0.003)
    if epsilon is not None:
        model = tf_privacy.privatize(model)
        batch_size = min(512, len(x) // 4)
        optimizer = make_dp_adam(
            len(x), batch_size=batch_size, epochs=epochs, epsilon=epsilon
        )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    before = model.layers[0].get_weights()[0]
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
    after = model.layers[0].get_weights()[0]
    return Filter(
        model=model,
        num_unmoved=int(np.sum(np.all(before == after, axis=1))),
        accuracy=model.evaluate(*test_data, verbose=0)[1],
    )


def main(argv):
    """Trains two filters and finds out what they remember.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero("target_epsilon", _TARGET_EPSILON.value)
    num_canaries, epochs = _NUM_CANARIES.value, _EPOCHS.value
    if _DATA.value is None:
        data = mails.make_mails(_NUM_MAILS)
    else:
        data = mails.load_mails(_DATA.value)
    if _SMOKE.value:
        data, num_canaries, epochs = data.take(range(500)), 50, 2
    num_test = round(_TEST_FRACTION * len(data.texts))
    x, y = encode(data.texts), data.is_spam
    canaries = make_canaries(num_canaries)
    train_data = canaries.insert(x[num_test:], y[num_test:])
    num_examples = len(train_data[0])
    checks.check_delta(_DELTA.value, num_examples)
    print(
        f"{num_examples} mails to train on, canaries among them; {num_test} to "
        f"test on, {np.mean(y[:num_test]):.0%} spam"
    )
    for name, epsilon in (
        ("Adam", None),
        ("DP-Adam", _TARGET_EPSILON.value),
    ):
        start = time.monotonic()
        found = train(
            train_data,
            (x[:num_test], y[:num_test]),
            epochs=epochs,
            epsilon=epsilon,
        )
        seconds = time.monotonic() - start
        report = audit.audit_canaries(
            found.model, canaries, delta=_DELTA.value, claimed_epsilon=epsilon
        )
        print(f"\n{name}: accuracy {found.accuracy:.3f} in {seconds:.0f} s")
        print(
            f"  {found.num_unmoved} of {_NUM_WORDS} vectors never moved"
            + (": nobody wrote their words" if found.num_unmoved else "")
        )
        print(
            f"  {report.num_correct} of {report.num_guesses} guesses about "
            "canaries were right, so epsilon is at least "
            f"{report.epsilon_lower:.2f}"
        )
    statement = found.model.privacy_statement(delta=_DELTA.value)
    print(
        f"  proved: epsilon {checks.round_up(statement.epsilon)} at delta "
        f"{statement.delta:g}, for each mail"
    )


if __name__ == "__main__":
    app.run(main)
