"""A tiny network with honest weights, as a checkpoint; trees of pictures come from `trees`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.network import Network
from model import SegGptForImageSegmentation
from model.checkpoint import save
from tests.evaluation import trees
from tests.model.conftest import TINY, draw_weights


def tiny_model() -> SegGptForImageSegmentation:
    model = SegGptForImageSegmentation(TINY).eval()
    draw_weights(model, seed=0)
    with torch.no_grad():
        model.decoder.decoder_pred.head.weight.mul_(4)  # answers on both sides of the threshold
    return model


@pytest.fixture(scope="session")
def network() -> Network:
    return Network(tiny_model())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(tiny_model(), folder)
    return folder


@pytest.fixture(scope="session")
def fss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.fss1000(tmp_path_factory.mktemp("fss"))


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.voc2012(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.coco2014(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return trees.plain(tmp_path / "things", {"cup": 4, "leaf": 3})
