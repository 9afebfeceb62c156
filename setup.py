# SPDX-License-Identifier: Apache-2.0
"""Packaging of tf_privacy; the version is the package's own."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
    r'^__version__ = "([^"]+)"$',
    (_HERE / "tf_privacy" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

setuptools.setup(
    name="tf-privacy",
    version=_VERSION,
    description="Differentially private training for Keras models.",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["tf_privacy", "tf_privacy.*"]),
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.0",
        "h5py>=3.10",
        "keras>=3.10",
        "numpy>=1.26",
        "scipy>=1.11",
        "tensorflow>=2.20",
        "tensorflow-probability>=0.25",
        "tf-keras>=2.20",
    ],
    extras_require={
        "tutorials": ["mlxtend>=0.23", "scikit-learn>=1.4"],
        "jax": ["jax>=0.7"],
        "torch": ["torch>=2.6"],
        "report": ["matplotlib>=3.8", "pandas>=2.1"],
        "test": [
            "dp-accounting>=0.6",
            "jax>=0.7",
            "matplotlib>=3.8",
            "mlxtend>=0.23",
            "mpmath>=1.3",
            "pandas>=2.1",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "scikit-learn>=1.4",
            "tensorboard>=2.18",
            "torch>=2.6",
        ],
    },
    entry_points={
        "console_scripts": [
            "tf-privacy-audit = tf_privacy.cli.audit:run",
            "tf-privacy-epsilon = tf_privacy.cli.epsilon:run",
            "tf-privacy-delta = tf_privacy.cli.delta:run",
            "tf-privacy-noise = tf_privacy.cli.noise:run",
            "tf-privacy-plan = tf_privacy.cli.plan:run",
            "tf-privacy-statement = tf_privacy.cli.statement:run",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Security",
    ],
)
