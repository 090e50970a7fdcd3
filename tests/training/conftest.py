"""Small pictures in the data folder's layout and a small teacher, made here: no test needs the real ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import pad
from transformers import Dinov2Config, Dinov2Model

from model.checkpoint import BUNDLED, load, resolve

CODE_POINTS = [f"1f{index:03x}" for index in range(60)]
CATEGORIES = {"airplane": 3, "dog": 2, "snow": 2}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emoji (each with a variant, in two styles), clothing, cut-outs, categories, photos with and without masks."""
    root = tmp_path_factory.mktemp("data")
    dice = np.random.default_rng(7)
    _emoji(root / "emoji", dice)
    _clothing(root / "clothing", dice)
    _things(root / "coco_by", dice)
    _emoji(root / "emoji_styles" / "flat", dice)
    _cut_outs(root / "cutouts", dice)
    _categories(root / "things", dice)
    _photos(root / "photos", dice)
    return root


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's checkpoint: the published form, smaller, random weights that matter in every part."""
    generator = torch.Generator().manual_seed(1)
    network = Dinov2Model(
        Dinov2Config(hidden_size=48, num_attention_heads=3, num_hidden_layers=12, patch_size=14, image_size=56)
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lambda" in name:
                parameter.uniform_(0.1, 0.6, generator=generator)
            else:
                parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.15, generator=generator)
    folder = tmp_path_factory.mktemp("dinov2")
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 checkpoint that sees: the image stream of the bundled network."""
    network = load(resolve(BUNDLED), torch.float32)
    config, ours, folder = network.config, network.state_dict(), tmp_path_factory.mktemp("pupil")
    assert config.mlp_dim is not None
    ratio = math.ceil(config.mlp_dim / config.hidden_size)
    idle = ratio * config.hidden_size - config.mlp_dim  # hidden units, which a DINOv2 has for its form alone
    teacher = Dinov2Model(
        Dinov2Config(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_hidden_layers=config.num_hidden_layers,
            mlp_ratio=ratio,
            patch_size=config.patch_size,
            image_size=config.half_size[0],
            layerscale_value=1.0,
        )
    )
    state = teacher.state_dict()
    embeddings = network.model.embeddings
    places = embeddings.positions()[0] + (embeddings.segment_token_input + embeddings.type_token_instance)[0, 0]
    for token in ("cls_token", "mask_token", "position_embeddings"):
        state[f"embeddings.{token}"].zero_()  # the class token has no counterpart, and would be drawn anew in each run
    state["embeddings.position_embeddings"][0, 1:] = places / 2  # both streams are averaged at the merge
    for kind in ("weight", "bias"):
        named = f"patch_embeddings.projection.{kind}"
        state[f"embeddings.{named}"] = ours[f"model.embeddings.{named}"] / 2
        for index in range(config.num_hidden_layers):
            own, theirs = f"model.encoder.layers.{index}.", f"encoder.layer.{index}."
            scale = 2.0 if index <= config.merge_index else 1.0
            for part, weight in zip("qkv", ours[f"{own}attention.qkv.{kind}"].chunk(3), strict=True):
                state[f"{theirs}attention.{part}_proj.{kind}"] = weight
            state[f"{theirs}attention.o_proj.{kind}"] = ours[f"{own}attention.proj.{kind}"] / scale
            entering, leaving = ours[f"{own}mlp.lin1.{kind}"], ours[f"{own}mlp.lin2.{kind}"] / scale
            state[f"{theirs}mlp.fc1.{kind}"] = torch.cat([entering, entering.new_zeros(idle, *entering.shape[1:])])
            state[f"{theirs}mlp.fc2.{kind}"] = pad(leaving, (0, idle)) if kind == "weight" else leaving
            state[f"{theirs}norm1.{kind}"] = ours[f"{own}layernorm_before.{kind}"]
            state[f"{theirs}norm2.{kind}"] = ours[f"{own}layernorm_after.{kind}"]
    teacher.load_state_dict(state)
    teacher.save_pretrained(folder)
    return folder


def _colour(dice: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in dice.integers(0, 256, 3))


def _emoji(folder: Path, dice: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for point in CODE_POINTS:
        for name in (f"emoji_u{point}", f"emoji_u{point}_1f3fb"):
            cut_out = Image.new("RGBA", (96, 96))
            ImageDraw.Draw(cut_out).ellipse((10, 20, 85, 90), fill=_colour(dice))
            cut_out.save(folder / f"{name}.png")


def _clothing(folder: Path, dice: np.random.Generator) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.json").write_text(json.dumps({"0": "background", "1": "hat", "2": "coat"}))
    for index in range(60):
        photo, label = Image.new("RGB", (64, 96), _colour(dice)), Image.new("L", (64, 96))
        for value, box in ((1, (20, 5, 45, 25)), (2, (10, 30, 55, 80))):
            ImageDraw.Draw(photo).rectangle(box, fill=_colour(dice))
            ImageDraw.Draw(label).rectangle(box, fill=value)
        photo.save(folder / "images" / f"{index:04d}.jpg")
        label.save(folder / "labels" / f"{index:04d}.png")


def _things(folder: Path, dice: np.random.Generator) -> None:
    (folder / "images").mkdir(parents=True)
    for category, count in CATEGORIES.items():
        (folder / "masks" / category).mkdir(parents=True)
        for index in range(count):
            photo, mask = Image.new("RGB", (80, 60), _colour(dice)), Image.new("L", (80, 60))
            box = (10 + 5 * index, 10, 50, 50)
            ImageDraw.Draw(photo).ellipse(box, fill=_colour(dice))
            ImageDraw.Draw(mask).ellipse(box, fill=255)
            photo.save(folder / "images" / f"{category}_{index}.jpg")
            mask.save(folder / "masks" / category / f"{category}_{index}.png")


def _cut_outs(folder: Path, dice: np.random.Generator) -> None:
    for index in range(40):
        (folder / f"kind_{index}").mkdir(parents=True)
        cut_out = Image.new("RGBA", (60, 30))
        ImageDraw.Draw(cut_out).rectangle((2, 2, 57, 27), fill=_colour(dice))
        cut_out.save(folder / f"kind_{index}" / "one.png")


def _categories(folder: Path, dice: np.random.Generator) -> None:
    for category in ("leaf", "stone"):
        (folder / category / "images").mkdir(parents=True)
        (folder / category / "masks").mkdir(parents=True)
        for index in range(3):
            photo, mask = Image.new("RGB", (70, 50), _colour(dice)), Image.new("L", (70, 50))
            for picture, fill in ((photo, _colour(dice)), (mask, 255)):
                ImageDraw.Draw(picture).ellipse((15, 10, 50, 40), fill=fill)
            photo.save(folder / category / "images" / f"{index}.jpg")
            mask.save(folder / category / "masks" / f"{index}.png")


def _photos(folder: Path, dice: np.random.Generator) -> None:
    folder.mkdir()
    for index in range(3):
        photo = Image.new("RGB", (90, 60), (250, 240, 200))
        ImageDraw.Draw(photo).rectangle((0, 30, 89, 59), fill=(20, 60 + 40 * index, 30))
        ImageDraw.Draw(photo).ellipse((30, 15, 60, 45), fill=(200, 20, 40))
        photo.save(folder / f"{index}.jpg")
