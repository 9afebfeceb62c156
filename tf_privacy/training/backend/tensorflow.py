# SPDX-License-Identifier: Apache-2.0
"""Numbers over steps for TensorBoard, through TensorFlow."""

import importlib.util

import tensorflow as tf


class ScalarWriter:
    """Writes numbers that TensorBoard shows.

    Args:
        log_dir: Folder of the files. Each writer adds a file of its own: what
            earlier ones wrote stays.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, log_dir: str):
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "log_dir needs TensorBoard. Received: no such package. Run pip "
                "install tensorboard."
            )
        self._writer = tf.summary.create_file_writer(str(log_dir))

    def write(self, values: dict[str, float], *, step: int) -> None:
        """Writes the numbers of one step, to be read at once.

        Args:
            values: By name.
            step: On the horizontal axis; >= 0.
        """
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
