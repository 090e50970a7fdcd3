"""The published size, with random weights: written by transformers, served on the CPU, right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.seggpt.image_processing_pil_seggpt import SegGptImageProcessorPil

from model import SegGptConfig
from tests.app.conftest import decoded, disc, form, picture, running_server
from tests.model.conftest import reference_of, write_original


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vit_large_is_served_from_both_layouts(tmp_path: Path) -> None:
    theirs = reference_of(SegGptConfig())
    theirs.save_pretrained(tmp_path / "large")
    processor = SegGptImageProcessorPil()
    labels = np.asarray(disc(centre=(0.3, 0.5))) // 255
    inputs = processor(
        images=picture(0), prompt_images=picture(1000), prompt_masks=labels, num_labels=1, return_tensors="pt"
    )
    with torch.inference_mode():
        outputs = theirs(**inputs)
    (wanted,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(90, 120)], num_labels=1)
    original = write_original(tmp_path / "seggpt_vit_large.pth", theirs)
    del theirs, outputs

    answers = []
    for checkpoint in (tmp_path / "large", original):
        with running_server(tmp_path / "log", checkpoint=checkpoint, deadline_s=600) as server:
            server.wait_until_ready()
            (model,) = server.client.get("/v1/models").json()["models"]
            assert model["parameters"] == 370_723_203
            assert model["picture_size"] == {"height": 448, "width": 448}
            server.client.timeout = 600
            answers.append(server.client.post("/v1/segment", files=form(0)))
    assert (decoded(answers[0]) == wanted.numpy() * 255).mean() > 0.9995
    assert answers[0].content == answers[1].content
