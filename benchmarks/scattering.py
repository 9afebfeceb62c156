# SPDX-License-Identifier: Apache-2.0
"""Features of images that no data was used to choose: a scattering transform.

Wavelets of two scales and four directions, absolute values, the finer ones'
a second time through the coarser wavelets, then local means over 4x4 pixels:

    S = [mean(x), mean(|x * w[i]|), mean(||x * w[fine]| * w[coarse]|)]

Each of the 25 channels of an image is then shifted and scaled to mean 0 and
variance 1 within the image, and the image to norm 1. Each image alone: the
features cost no privacy, and the norm bounds a linear classifier's gradient.

Source: Oyallon and Mallat 2015, arXiv:1412.8659; with differential privacy,
    Tramer and Boneh 2021, arXiv:2011.11660.
"""

import numpy as np
import scipy.fft

_NUM_DIRECTIONS = 4
_NUM_SCALES = 2
_NUM_CHANNELS = 1 + 2 * _NUM_DIRECTIONS + _NUM_DIRECTIONS**2
_CELL = 4
_WIDTH = 0.8
_SLANT = 0.5
_PIECE = 250


def compute_features(images: np.ndarray) -> np.ndarray:
    """Returns the normalised scattering features of grey images.

    Args:
        images: `[B, S, S, 1]` in [0, 1]; S a multiple of 4.

    Returns:
        `[B, 25 * (S / 4)^2]` float32 of norm 1.
    """
    num_features = _NUM_CHANNELS * (images.shape[1] // _CELL) ** 2
    features = np.empty((len(images), num_features), np.float32)
    for start in range(0, len(images), _PIECE):
        piece = images[start : start + _PIECE, ..., 0]
        features[start : start + _PIECE] = _normalise(_scatter(piece))
    return features


def _scatter(images):
    """Returns `[B, channels, cells]`."""
    size = images.shape[1]
    padding = ((0, 0), (_CELL, _CELL), (_CELL, _CELL))
    padded = np.pad(images.astype(np.float32), padding, mode="edge")
    fine, coarse = _make_wavelets(size + 2 * _CELL)
    means = _make_means(size)

    def average(maps):
        inner = maps[:, _CELL:-_CELL, _CELL:-_CELL]
        return (means @ inner @ means.T).reshape(len(maps), -1)

    def transform(spectrum, wavelet):
        return np.abs(scipy.fft.ifft2(spectrum * wavelet))

    spectrum = scipy.fft.fft2(padded)
    channels = [average(padded)]
    for first in fine:
        edges = transform(spectrum, first)
        channels.append(average(edges))
        edges = scipy.fft.fft2(edges)
        channels += [average(transform(edges, second)) for second in coarse]
    channels += [average(transform(spectrum, wavelet)) for wavelet in coarse]
    return np.stack(channels, axis=1)


def _normalise(channels):
    """Returns `[B, features]` of norm 1, each channel of mean 0."""
    centered = channels - channels.mean(axis=2, keepdims=True)
    stddev = np.sqrt(np.mean(centered**2, axis=2, keepdims=True) + 1e-5)
    features = (centered / stddev).reshape(len(channels), -1)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(norms, 1e-6)).astype(np.float32)


def _make_wavelets(size):
    """Returns Morlet wavelets by their spectra: `[scale][direction]`."""
    return [
        [
            _make_wavelet(size, 2.0**scale, np.pi * k / _NUM_DIRECTIONS)
            for k in range(_NUM_DIRECTIONS)
        ]
        for scale in range(_NUM_SCALES)
    ]


def _make_wavelet(size, scale, angle):
    frequency = 0.75 * np.pi / scale
    wave = _make_bump(size, _WIDTH * scale, angle, frequency)
    bump = _make_bump(size, _WIDTH * scale, angle, 0.0)
    # Mean zero: a constant image has no edges.
    return (wave - wave[0, 0] / bump[0, 0] * bump).astype(np.float32)


def _make_bump(size, width, angle, frequency):
    """Returns a Gaussian of frequencies around one, with its aliases."""
    grid = 2 * np.pi * np.fft.fftfreq(size)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    total = np.zeros((size, size))
    for shift_y in (-2 * np.pi, 0.0, 2 * np.pi):
        for shift_x in (-2 * np.pi, 0.0, 2 * np.pi):
            across, down = x + shift_x, y + shift_y
            along = np.cos(angle) * across + np.sin(angle) * down - frequency
            beside = np.cos(angle) * down - np.sin(angle) * across
            distance = along**2 + (beside / _SLANT) ** 2
            total += np.exp(-(width**2) * distance / 2)
    return total


def _make_means(size):
    """Returns `[cells, size]`: Gaussian weights around each cell's middle."""
    middles = _CELL * np.arange(size // _CELL) + (_CELL - 1) / 2
    distance = (np.arange(size) - middles[:, np.newaxis]) / (_WIDTH * _CELL)
    weights = np.exp(-(distance**2) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
