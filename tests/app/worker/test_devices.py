"""Devices as they are asked for, and the CPU's cores shared out among workers."""

from __future__ import annotations

import pytest
import torch

from app.worker import devices
from app.worker.devices import NoDeviceError, available_cores, share_out

SMALL, LARGE = 4_500_000, 370_000_000


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int = 0) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("cores", "asked", "threads", "parameters", "expected"),
    [
        (2, "auto", None, SMALL, (("cpu",) * 2, 1)),
        (1, "auto", None, SMALL, (("cpu",), 1)),
        (16, "auto", None, SMALL, (("cpu",) * 4, 4)),
        (3, "auto", None, SMALL, (("cpu",) * 3, 1)),
        (2, "auto", None, LARGE, (("cpu",), 2)),
        (8, "auto", 4, SMALL, (("cpu",) * 2, 4)),
        (2, "auto", 8, SMALL, (("cpu",), 8)),
        (8, "cpu", None, SMALL, (("cpu",), 8)),
        (8, "cpu", 3, SMALL, (("cpu",), 3)),
        (8, "cpu,cpu", None, LARGE, (("cpu",) * 2, 4)),
    ],
)
def test_cores_are_shared_out(monkeypatch, cores, asked, threads, parameters, expected):
    machine(monkeypatch, cores)
    assert share_out(asked, threads, parameters) == expected


@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0,cuda:1"])
def test_a_machine_with_gpus_computes_there(monkeypatch, asked):
    machine(monkeypatch, cores=16, gpus=2)
    assert share_out(asked, None, SMALL) == (("cuda:0", "cuda:1"), 16)


@pytest.mark.parametrize(("asked", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cpu,cuda:2", 2)])
def test_a_device_that_is_not_there_is_named(monkeypatch, asked, gpus):
    machine(monkeypatch, cores=2, gpus=gpus)
    with pytest.raises(NoDeviceError, match=f"SEGGPT_DEVICES is '{asked}'; this machine has .*cpu"):
        share_out(asked, None, SMALL)


def test_cores_are_counted():
    assert available_cores() >= 1
