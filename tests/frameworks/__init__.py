# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of the framework below Keras, a module for each.

Written without the library under test.
"""

import importlib

import keras

framework = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
