# SPDX-License-Identifier: Apache-2.0
"""How do I fine-tune a large model privately?

    python tutorials/lora_finetuning.py                      # two minutes
    python tutorials/lora_finetuning.py --target_epsilon=3
    python tutorials/lora_finetuning.py --data=package/data  # see mails.py

Train few of its weights. A private step adds noise to every weight it trains
and clips a gradient over all of them; low-rank adaptation (LoRA) freezes each
kernel and trains a product of two narrow matrices that is added to it. In Keras
that is `layer.enable_lora(rank)`, once the weights are in.

Here a small transformer learns from public mails, without labels, what the next
word is. Then it is to tell spam from ham, by private mails, in three ways at
equal epsilon: all weights; LoRA and a new last layer, the head; the head alone.
Try the head first: where the features suit the task, it is all that is needed.

Source: Hu et al. 2021, arXiv:2106.09685; Yu et al. 2022, arXiv:2110.06500, with
differential privacy.
"""

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

_DATA = flags.DEFINE_string(
    "data", None, "Folder of SpamAssassin's mails. Default: made-up mails."
)
_RANK = flags.DEFINE_integer(
    "rank", 4, "Width of LoRA's matrices.", lower_bound=1
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 1.0, "What each fine-tuned model may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / private mails.")
_PUBLIC_EPOCHS = flags.DEFINE_integer(
    "public_epochs", 6, "Passes over the public mails.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 8, "Passes over the private mails.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Few mails, one epoch, to see that it runs."
)

_SEED = 0
_NUM_MAILS = 8000
_NUM_WORDS = 2048
_LENGTH = 32
_WIDTH = 32
_NUM_HEADS = 4


def make_transformer(num_blocks: int) -> keras.Model:
    """Returns a model from words to vectors, each of a word and those before.

    Args:
        num_blocks: Blocks of attention and two dense layers.
    """
    words = keras.Input((_LENGTH,), dtype="int32")
    x = layers.Embedding(_NUM_WORDS, _WIDTH)(words)
    for _ in range(num_blocks):
        attention = layers.MultiHeadAttention(_NUM_HEADS, _WIDTH // _NUM_HEADS)
        normed = layers.LayerNormalization()(x)
        x = layers.Add()([x, attention(normed, normed, use_causal_mask=True)])
        normed = layers.LayerNormalization()(x)
        hidden = layers.Dense(2 * _WIDTH, activation="gelu")(normed)
        x = layers.Add()([x, layers.Dense(_WIDTH)(hidden)])
    return keras.Model(words, layers.LayerNormalization()(x))


def train_publicly(transformer, words: np.ndarray, *, epochs: int) -> None:
    """Trains a transformer to tell which word comes next.

    Args:
        transformer: From `make_transformer`.
        words: `[N, L]` of public mails; 0 where a mail has ended.
        epochs: Passes over them.
    """
    model = keras.Sequential([transformer, layers.Dense(_NUM_WORDS)])
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=0
        ),
    )
    next_words = np.pad(words[:, 1:], ((0, 0), (0, 1)))
    model.fit(words, next_words, batch_size=64, epochs=epochs, verbose=0)


def copy(transformer: keras.Model) -> keras.Model:
    """Returns a transformer of its own with the same weights.

    Args:
        transformer: To copy.
    """
    new = keras.models.clone_model(transformer)
    new.set_weights(transformer.get_weights())
    return new


def adapt(transformer: keras.Model, rank: int) -> keras.Model:
    """Returns a copy of which LoRA's matrices, and biases, are trained.

    Args:
        transformer: Trained; LoRA starts from its kernels.
        rank: Width of the matrices.
    """
    new = copy(transformer)
    for layer in new.layers:
        if isinstance(layer, layers.MultiHeadAttention):
            for dense in (
                layer.query_dense,
                layer.key_dense,
                layer.value_dense,
                layer.output_dense,
            ):
                dense.enable_lora(rank)
        elif isinstance(layer, layers.Dense):
            layer.enable_lora(rank)
        else:
            layer.trainable = False
    return new


def freeze(transformer: keras.Model) -> keras.Model:
    """Returns a copy of which nothing is trained.

    Args:
        transformer: Trained.
    """
    new = copy(transformer)
    new.trainable = False
    return new


def make_classifier(transformer: keras.Model) -> keras.Model:
    """Returns the transformer with a head: the mean over the words, one logit.

    Args:
        transformer: A part of the new model.
    """
    return keras.Sequential(
        [
            transformer,
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, kernel_initializer="zeros"),
        ]
    )


def fine_tune(model, x, y, *, rate: float, epsilon: float, epochs: int):
    """Trains a classifier with DP-Adam.

    Args:
        model: From `make_classifier`.
        x: `[N, L]` words.
        y: `[N]` labels.
        rate: Learning rate.
        epsilon: What may be spent, at the flag's delta.
        epochs: Passes over the data.
    """
    batch_size = math.ceil(len(x) / 6)
    tf_privacy.privatize(model)
    model.compile(
        optimizer=tf_privacy.DPAdam(
            rate,
            l2_norm_clip=1.0,
            noise_multiplier=tf_privacy.calibrate_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=_DELTA.value,
                sampling_probability=batch_size / len(x),
                num_steps=math.ceil(len(x) / batch_size) * epochs,
            ),
        ),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)


def count_trained(model: keras.Model) -> int:
    """Returns the number of weights that training moves.

    Args:
        model: Any Keras model.
    """
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def main(argv):
    """Trains publicly once, and fine-tunes in three ways.

    Args:
        argv: The program's name; what is left after the flags.
    """
    checks.check_arguments(argv)
    checks.check_above_zero("target_epsilon", _TARGET_EPSILON.value)
    epochs, public_epochs = _EPOCHS.value, _PUBLIC_EPOCHS.value
    if _DATA.value is None:
        data = mails.make_mails(_NUM_MAILS)
    else:
        data = mails.load_mails(_DATA.value)
    if _SMOKE.value:
        data, epochs, public_epochs = data.take(range(800)), 1, 1
    words = mails.encode(data.texts, num_words=_NUM_WORDS, length=_LENGTH)
    # Half are public, an eighth is to test on; of the rest, labels are used.
    public, test = len(words) // 2, len(words) * 5 // 8
    x, y = words[test:], data.is_spam[test:]
    checks.check_delta(_DELTA.value, len(x))
    keras.utils.set_random_seed(_SEED)
    start = time.monotonic()
    transformer = make_transformer(num_blocks=1 if _SMOKE.value else 2)
    train_publicly(transformer, words[:public], epochs=public_epochs)
    print(
        f"{public} public mails without labels, {time.monotonic() - start:.0f} "
        f"s; {len(x)} private ones with labels, {test - public} to test on"
    )
    # The learning rates were found by trial on these very data: with data that
    # need protection, each trial spends epsilon too.
    ways = [
        ("LoRA and head", adapt(transformer, _RANK.value), 0.01),
        ("all weights", copy(transformer), 0.003),
        ("head alone", freeze(transformer), 0.03),
    ]
    for name, part, rate in ways[:1] if _SMOKE.value else ways:
        keras.utils.set_random_seed(_SEED)
        model = make_classifier(part)
        start = time.monotonic()
        fine_tune(
            model, x, y, rate=rate, epsilon=_TARGET_EPSILON.value, epochs=epochs
        )
        seconds = time.monotonic() - start
        _, accuracy = model.evaluate(
            words[public:test], data.is_spam[public:test], verbose=0
        )
        epsilon = model.privacy_statement(delta=_DELTA.value).epsilon
        print(
            f"{name:<13}  {count_trained(model):>6} weights  accuracy "
            f"{accuracy:.3f}  epsilon {checks.round_up(epsilon)}  "
            f"{seconds:3.0f} s"
        )
    print(
        "Each epsilon is that of one model: it is for releasing that one, and "
        "not all of them."
    )
    adapted = make_classifier(ways[0][1])
    print("\nHow LoRA's gradients are clipped, each layer by a fast rule:")
    print(tf_privacy.explain_clipping(adapted, x[:8]))


if __name__ == "__main__":
    app.run(main)
