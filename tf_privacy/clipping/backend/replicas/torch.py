# SPDX-License-Identifier: Apache-2.0
"""Steps on several replicas, under `torch.distributed`."""

from torch import distributed


def check_one_replica() -> None:
    """Raises in a group of processes: each would add its own noise.

    Raises:
        NotImplementedError: If this process is one of several.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    num_replicas = distributed.get_world_size()
    if num_replicas > 1:
        raise NotImplementedError(
            "a private step must run on one replica: it draws its noise once "
            "for the whole batch. Received: a step in a torch.distributed "
            f"group of {num_replicas} processes. Train in one process."
        )
