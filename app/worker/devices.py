"""Which devices are used, by how many workers, and how a CPU's cores are shared out among them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from model.devices import devices_there

# Below this many parameters two threads of one forward wait for each other more than they compute: two cores then do
# 1.1 to 1.4 times as many images per second as two workers with a thread each (docs/log.md).
_SMALL_PARAMETERS = 20_000_000
# Each worker takes a third of a gigabyte before it has weights.
_MOST_SHARING = 4


class NoDeviceError(Exception):
    """A device was asked for that is not there."""


def share_out(asked: str, threads: int | None, parameters: int) -> tuple[tuple[str, ...], int]:
    """Devices and the torch threads of each of their workers.

    Args:
        asked: "auto", "cpu", "cuda" or a list such as "cuda:0,cuda:1"; the CPU may stand in it several times.
        threads: of each worker; None shares the cores out among the workers on the CPU.
        parameters: how many numbers the network has. On a CPU "auto" gives a small one several workers.

    Returns:
        Torch devices, one worker each, and the threads.

    Raises:
        NoDeviceError: a device is not there.
    """
    there = devices_there()[:-1]  # those that are no CPU
    cores = available_cores()
    if asked == "auto":
        workers = cores // (threads or 1) if parameters <= _SMALL_PARAMETERS else 1
        devices = there or ("cpu",) * max(1, min(workers, _MOST_SHARING))
    else:
        devices = there if asked == "cuda" else tuple(asked.split(","))
    missing = [name for name in devices if name != "cpu" and name not in there]
    if missing or not devices:
        raise NoDeviceError(f"SEGGPT_DEVICES is {asked!r}; this machine has {', '.join((*there, 'cpu'))}")
    return devices, threads or max(1, cores // max(1, devices.count("cpu")))


def available_cores() -> int:
    """Cores that this process may use: by affinity and by the container's quota, at least 1.

    Torch's own default counts the machine's cores, which a container with a quota does not have.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, round(int(quota) / int(period)))
    return max(1, min(cores, torch.get_num_threads()))
