# SPDX-License-Identifier: Apache-2.0
"""Numbers over steps for TensorBoard, in files that need no TensorFlow."""

import itertools
import os
import pathlib
import socket
import time

_numbers = itertools.count()


class ScalarWriter:
    """Writes numbers that TensorBoard shows.

    Args:
        log_dir: Folder of the files. Each writer adds a file of its own: what
            earlier ones wrote stays.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, log_dir: str):
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.compat.proto import summary_pb2
            from tensorboard.summary.writer import record_writer
        except ImportError as error:
            raise ImportError(
                "log_dir needs TensorBoard. Received: no such package. Run pip "
                "install tensorboard."
            ) from error
        self._events, self._summaries = event_pb2, summary_pb2
        folder = pathlib.Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # Its name must hold "tfevents"; files are read in the order of names.
        name = (
            f"events.out.tfevents.{int(time.time()):010d}."
            f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        )
        file = open(folder / name, "xb")
        self._records = record_writer.RecordWriter(file)
        self._add(file_version="brain.Event:2")

    def write(self, values: dict[str, float], *, step: int) -> None:
        """Writes the numbers of one step, to be read at once.

        Args:
            values: By name.
            step: On the horizontal axis; >= 0.
        """
        summary = self._summaries.Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=float(value))
        self._add(step=int(step), summary=summary)

    def _add(self, **fields):
        event = self._events.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()
