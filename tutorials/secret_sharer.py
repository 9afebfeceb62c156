# SPDX-License-Identifier: Apache-2.0
"""Hides secrets in real text, and gets them out of the model trained on it.

    python tutorials/secret_sharer.py                   # three minutes
    python tutorials/secret_sharer.py --repetitions=1,4,16,64
    python tutorials/secret_sharer.py --text_file=my.txt --target_epsilon=1
    python tutorials/secret_sharer.py --digits=16 --repetitions=10,30

A character model is trained twice, without privacy and with DP-Adam, on the
manual that comes with Python and a few made-up codes. After every epoch it is
measured how exposed the codes are; at the end the likeliest code is searched
for, as somebody would who has the model and not the data.

Source: Carlini et al. 2019, "The Secret Sharer", arXiv:1802.08232.
"""

import dataclasses
import importlib
import importlib.util
import math
import pathlib
import re

import keras
import numpy as np
from absl import app
from absl import flags
from keras import layers

import tf_privacy
from tf_privacy import audit

_TEXT_FILE = flags.DEFINE_string(
    "text_file", None, "Text to train on. Default: the manual inside of Python."
)
_REPETITIONS = flags.DEFINE_list(
    "repetitions", ["1", "4", "16"], "How often each code is in the text."
)
_DIGITS = flags.DEFINE_integer(
    "digits", 6, "Length of a code; at most 23.", lower_bound=1, upper_bound=23
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations",
    200_000,
    "The most prefixes to count the final ranks with; 2000 in every epoch.",
)
_TARGET_EPSILON = flags.DEFINE_float(
    "target_epsilon", 3.0, "What the private model may spend."
)
_DELTA = flags.DEFINE_float("delta", 1e-5, "Below 1 / training examples.")
_L2_NORM_CLIP = flags.DEFINE_float(
    "l2_norm_clip", 0.5, "Bound on the L2 norm of one example's gradient."
)
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the text.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "out/secret_sharer", "Folder for the plot and the figures."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the codes, the order of the text and the initial weights."
)
_SMOKE = flags.DEFINE_bool(
    "smoke", False, "Train on little text for two epochs, to see that it runs."
)

ALPHABET = " .,abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 41
_NUM_TRAIN = 3000
_NUM_TEST = 1000
_EPOCH_EVALUATIONS = 2000
_SEARCH_EVALUATIONS = 20_000
_PREFIX = "my locker code is "


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: For the table and the plot.
        model: The trained model.
        losses: Mean bits of a character of the test text, one an epoch.
        reports: The exposure of each code, one an epoch.
    """

    name: str
    model: keras.Model
    losses: list[float]
    reports: list[audit.ExposureReport]


def encode(text: str) -> list[int]:
    """Returns the number of each character.

    Args:
        text: Of characters in ALPHABET.
    """
    return [ALPHABET.index(character) for character in text]


def make_format() -> audit.CanaryFormat:
    """Returns the form of the codes."""
    return audit.CanaryFormat(f"{_PREFIX}{{digit:{_DIGITS.value}}}")


def measure_exposure(model, codes, evaluations: int) -> audit.ExposureReport:
    """Returns how exposed each code is.

    Args:
        model: Gives logits of the next character.
        codes: The `Canaries`.
        evaluations: The most prefixes to count ranks with.
    """
    space = make_format().to_secret_space(encode)
    return audit.estimate_exposure(
        audit.make_language_model(model, outputs="logits"),
        space,
        secrets=audit.encode_secrets(codes.values, space=space, encode=encode),
        max_evaluations=evaluations,
        names=codes.values,
    )


def load_documents(path: str | None, rng: np.random.Generator) -> list[str]:
    """Returns real text, cut to pieces of equal length, in random order.

    Args:
        path: A text file; None takes the manual inside of Python.
        rng: Source of the order.
    """
    if path is None:
        topics = importlib.import_module("pydoc_data.topics").topics
        text = " ".join(topics[name] for name in sorted(topics))
    else:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    text = re.sub(r"[^a-z0-9.,]+", " ", text.lower())
    pieces = [
        text[start : start + _LENGTH]
        for start in range(0, len(text) - _LENGTH, _LENGTH)
    ]
    return [pieces[i] for i in rng.permutation(len(pieces))]


def make_rows(documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the model reads and what it is to say next.

    Args:
        documents: Texts of at most `_LENGTH` characters; filled with spaces.
    """
    rows = np.array([encode(d.ljust(_LENGTH)) for d in documents], np.int32)
    return rows[:, :-1], rows[:, 1:]


def make_model() -> keras.Model:
    """Returns a recurrent network that gives logits of the next character."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(len(ALPHABET), 32),
            layers.GRU(128, return_sequences=True),
            layers.Dense(len(ALPHABET)),
        ]
    )


def compile_model(model, *, num_examples: int, epochs: int, private: bool):
    """Returns the model, ready to be trained, and its batch size.

    Args:
        model: From `make_model`.
        num_examples: Examples in the training set.
        epochs: Passes over the data.
        private: Whether to train with DP-Adam.
    """
    batch_size = min(256 if private else 64, num_examples // 4)
    if private:
        model = tf_privacy.privatize(model)
        noise_multiplier = tf_privacy.calibrate_noise_multiplier(
            target_epsilon=_TARGET_EPSILON.value,
            target_delta=_DELTA.value,
            sampling_probability=batch_size / num_examples,
            num_steps=math.ceil(num_examples / batch_size) * epochs,
        )
        optimizer = tf_privacy.DPAdam(
            0.01,
            l2_norm_clip=_L2_NORM_CLIP.value,
            noise_multiplier=noise_multiplier,
        )
    else:
        optimizer = keras.optimizers.Adam(0.004)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, batch_size


def train(name: str, *, codes, documents, tests, epochs: int, private: bool):
    """Returns a run, its exposure measured after every epoch.

    Args:
        name: For the table and the plot.
        codes: The `Canaries` in the documents.
        documents: Texts to train on.
        tests: Texts to measure the loss on.
        epochs: Passes over the documents.
        private: Whether to train with DP-Adam.
    """
    keras.utils.set_random_seed(_SEED.value)
    model, batch_size = compile_model(
        make_model(),
        num_examples=len(documents),
        epochs=epochs,
        private=private,
    )

    def measure(_, epoch):
        report = measure_exposure(model, codes, _EPOCH_EVALUATIONS)
        shown = " ".join(f"{e:5.1f}" for e in report.exposures)
        print(f"{name}, epoch {epoch + 1}: exposures {shown} bits")
        return report

    callback = audit.AuditCallback(measure)
    x, y = make_rows(documents)
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=make_rows(tests),
        verbose=0,
        callbacks=[callback],
    )
    return Run(
        name,
        model,
        [loss / math.log(2) for loss in history.history["val_loss"]],
        [report for _, report in callback.history],
    )


def extract(run: Run, codes) -> str:
    """Returns what an attacker finds who has nothing but the model.

    Args:
        run: The training run.
        codes: The `Canaries`, to tell whether one of them was found.
    """
    found = audit.search_secrets(
        audit.make_language_model(run.model, outputs="logits"),
        make_format().to_secret_space(encode),
        max_evaluations=_SEARCH_EVALUATIONS,
    )
    if not found.secrets:
        return f"{run.name}: {found}"
    secret = _PREFIX + "".join(ALPHABET[t] for t in found.secrets[0])
    verdict = (
        "a code of the training text" if secret in codes.values else "no code"
    )
    return (
        f"{run.name}: the likeliest is {secret!r}, {verdict} "
        f"({found.bits[0]:.1f} bits, {found.evaluations} evaluations, "
        f"{'proved' if found.is_optimal else 'not proved'} to be the likeliest)"
    )


def plot(runs: list[Run], repetitions: list[int], path: pathlib.Path) -> None:
    """Draws exposure and loss over the epochs.

    Args:
        runs: To be drawn side by side.
        repetitions: Of each code.
        path: File to write.
    """
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(10, 4.5), layout="constrained"
    )
    axes = figure.subplots(1, len(runs), sharey=True)
    limit = make_format().log2_size
    for ax, run in zip(axes, runs, strict=True):
        epochs = np.arange(1, len(run.reports) + 1)
        exposures = np.array([report.exposures for report in run.reports])
        for curve, count in zip(exposures.T, repetitions, strict=True):
            times = "once" if count == 1 else f"{count} times"
            ax.plot(epochs, curve, marker=".", label=f"code inserted {times}")
        ax.axhline(limit, color="black", linestyle=":", label="fully exposed")
        ax.set(title=run.name, xlabel="epoch", ylim=(0, limit * 1.08))
        ax.grid(alpha=0.3)
        loss = ax.twinx()
        loss.plot(epochs, run.losses, color="gray", linestyle="--")
        best = int(np.argmin(run.losses))
        loss.plot(epochs[best], run.losses[best], "v", color="gray")
        loss.set_ylim(1.5, 5.0)
    axes[0].set_ylabel("exposure, bits")
    axes[-1].legend(loc="lower right", bbox_to_anchor=(1.0, 0.16))
    loss.set_ylabel("test loss, bits a character (dashed, its least: v)")
    figure.savefig(path, dpi=120)


def main(argv):
    """Trains both models, attacks them and draws the plot.

    Args:
        argv: The program's name; what is left after the flags.
    """
    if len(argv) > 1:
        raise app.UsageError(f"arguments must be flags. Received: {argv[1]!r}.")
    epochs, num_train, num_test = _EPOCHS.value, _NUM_TRAIN, _NUM_TEST
    if _SMOKE.value:
        epochs, num_train, num_test = 2, 300, 100
    rng = np.random.default_rng(_SEED.value)
    repetitions = [int(count) for count in _REPETITIONS.value]
    codes = audit.make_exposure_canaries(
        make_format(), repetitions=repetitions, seed=_SEED.value
    )
    pieces = load_documents(_TEXT_FILE.value, rng)
    if len(pieces) < num_train + num_test:
        raise app.UsageError(
            f"text_file must hold at least {num_train + num_test} pieces of "
            f"{_LENGTH} characters. Received: {len(pieces)}."
        )
    tests, documents = pieces[:num_test], pieces[num_test:][:num_train]
    documents = codes.insert_into_documents(documents, rng=rng)
    settings = {"codes": codes, "documents": documents, "tests": tests}
    runs = [
        train(name, epochs=epochs, private=private, **settings)
        for name, private in [
            ("without privacy", False),
            (f"DP-Adam, epsilon {_TARGET_EPSILON.value:g}", True),
        ]
    ]
    statement = runs[1].model.privacy_statement(delta=_DELTA.value)
    print(f"epsilon: {math.ceil(1000 * statement.epsilon) / 1000} of DP-Adam")
    for run in runs:
        print(f"\n{run.name}, {run.losses[-1]:.2f} bits a character:")
        evaluations = _EPOCH_EVALUATIONS if _SMOKE.value else _EVALUATIONS.value
        run.reports[-1] = measure_exposure(run.model, codes, evaluations)
        print(run.reports[-1])
        print(extract(run, codes))
    folder = pathlib.Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    for run, name in zip(runs, ("plain", "private"), strict=True):
        report = audit.make_exposure_report(
            run.reports[-1], canaries=codes, title=f"Secrets, {run.name}"
        )
        path = folder / f"exposure_{name}.json"
        path.write_text(report.to_json(), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print('no plot: pip install "tf-privacy[report]" draws it')
        return
    plot(runs, repetitions, folder / "exposure.png")
    print(f"plot saved in {folder / 'exposure.png'}")


if __name__ == "__main__":
    app.run(main)
