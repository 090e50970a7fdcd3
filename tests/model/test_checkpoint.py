"""Every form of a local checkpoint loads into the same network; whatever is wrong with one is said in a line."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor, SegGptModel
from model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load,
    resolve,
    save,
    to_huggingface,
    to_original,
)
from tests.model.conftest import TINY, draw_batch, draw_weights, reference_of, relative_rms, write_original


def test_a_folder_loads_in_eval_with_the_same_answer(saved, answer):
    checkpoint = resolve(saved.folder)
    assert checkpoint == Checkpoint(saved.folder / "model.safetensors", TINY, None, "huggingface", str(saved.folder))
    model = load(checkpoint)
    assert not model.training
    assert torch.equal(answer(model), answer(saved.model))


def test_a_relative_path_is_found_again_from_elsewhere(saved, monkeypatch):
    monkeypatch.chdir(saved.folder.parent)
    checkpoint = resolve(saved.folder.name)
    monkeypatch.chdir("/")
    assert load(checkpoint).config == TINY


def test_nothing_stays_on_the_meta_device(saved):
    model = load(resolve(saved.folder))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_folder_written_by_transformers_loads(tmp_path, answer):
    theirs = reference_of(TINY, seed=1)
    theirs.save_pretrained(tmp_path)
    model = load(resolve(str(tmp_path)))
    assert relative_rms(answer(model), answer(theirs)) <= 1e-5


def test_shards_written_by_transformers_load(tmp_path, answer):
    theirs = reference_of(TINY, seed=1)
    theirs.save_pretrained(tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    checkpoint = resolve(tmp_path)
    assert checkpoint.weights.name == "model.safetensors.index.json"
    assert relative_rms(answer(load(checkpoint)), answer(theirs)) <= 1e-5


def test_transformers_loads_what_is_saved_with_nothing_missing_or_surplus(saved, answer):
    theirs, report = transformers.SegGptForImageSegmentation.from_pretrained(saved.folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert theirs.dtype == torch.float32
    assert relative_rms(answer(saved.model), answer(theirs.eval())) <= 1e-5


def test_transformers_reads_the_saved_preprocessor(saved):
    processor = transformers.AutoImageProcessor.from_pretrained(saved.folder, backend="pil")
    assert dict(processor.size) == {"height": TINY.half_size[0], "width": TINY.half_size[1]}
    published = transformers.models.seggpt.image_processing_pil_seggpt.SegGptImageProcessorPil()
    for name in ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb"):
        assert getattr(processor, name) == getattr(published, name), name
    for name in ("image_mean", "image_std"):
        assert tuple(getattr(processor, name)) == tuple(getattr(published, name)), name


def test_a_lone_file_written_here_explains_itself(saved, tmp_path, answer):
    lone = tmp_path / "lone.safetensors"
    shutil.copy(saved.folder / "model.safetensors", lone)
    checkpoint = resolve(lone)
    assert checkpoint.config == TINY
    assert torch.equal(answer(load(checkpoint)), answer(saved.model))


def test_a_lone_file_takes_the_config_beside_it(saved, tmp_path, answer):
    save_file(load_file(saved.folder / "model.safetensors"), tmp_path / "bare.safetensors")
    shutil.copy(saved.folder / "config.json", tmp_path)
    assert torch.equal(answer(load(resolve(tmp_path / "bare.safetensors"))), answer(saved.model))


@pytest.mark.parametrize("layout", ["huggingface", "original"])
def test_a_lone_file_of_the_published_shape_needs_no_config(tmp_path, layout):
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in SegGptForImageSegmentation(SegGptConfig()).state_dict().items()
        }
    if layout == "original":
        # One stored number per tensor, seen in the full shape: 1.5 GB of names and shapes in a small file.
        tensors = {to_original(name): torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        path = tmp_path / "seggpt_vit_large.pth"
        torch.save({"model": tensors}, path)
    else:
        path = tmp_path / "vit_large.safetensors"
        write_sparse_safetensors(path, shapes)
    checkpoint = resolve(path)
    assert checkpoint.config == SegGptConfig()
    assert checkpoint.layout == layout


def write_sparse_safetensors(path: Path, shapes: dict[str, torch.Size]) -> None:
    """A float16 file of zeros that takes no room on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape.numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def test_an_original_checkpoint_gives_the_same_bytes(saved, tmp_path, answer):
    path = write_original(tmp_path / "seggpt_tiny.pth", saved.model)
    shutil.copy(saved.folder / "config.json", tmp_path)
    checkpoint = resolve(path)
    assert checkpoint.layout == "original"
    assert answer(load(checkpoint)).numpy().tobytes() == answer(saved.model).numpy().tobytes()


def test_an_original_checkpoint_may_carry_training_arguments(saved, tmp_path, answer):
    beside = {"args": argparse.Namespace(lr=1e-4), "epoch": 3, "optimizer": {"state": {}}}
    path = write_original(tmp_path / "seggpt_tiny.pth", saved.model, **beside)
    shutil.copy(saved.folder / "config.json", tmp_path)
    assert torch.equal(answer(load(resolve(path))), answer(saved.model))


def test_original_names_are_those_of_the_published_file():
    with torch.device("meta"):
        names = list(SegGptForImageSegmentation(SegGptConfig()).state_dict())
    original = [to_original(name) for name in names]
    assert len(set(original)) == len(names) == 354
    assert [to_huggingface(name) for name in original] == names
    assert not any(name.startswith(("model.", "decoder.")) for name in original)
    outside = {name for name in original if not name.startswith("blocks.")}
    assert outside == {
        *("mask_token", "segment_token_x", "segment_token_y", "type_token_cls", "type_token_ins", "pos_embed"),
        *(f"patch_embed.proj.{kind}" for kind in ("weight", "bias")),
        *(f"norm.{kind}" for kind in ("weight", "bias")),
        *(f"decoder_embed.{kind}" for kind in ("weight", "bias")),
        *(f"decoder_pred.{index}.{kind}" for index in (0, 1, 3) for kind in ("weight", "bias")),
    }
    assert {name.removeprefix("blocks.11.") for name in original if name.startswith("blocks.11.")} == {
        *(f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")),
        *(f"attn.{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")),
        *("attn.rel_pos_h", "attn.rel_pos_w"),
        *(f"mlp.{part}.{kind}" for part in ("fc1", "fc2") for kind in ("weight", "bias")),
    }


def test_a_name_that_only_begins_like_a_known_one_is_left_alone():
    for name in ("norma.weight", "decoder_pred.30.weight", "decoder_embedding", "blocks.x.norm1.weight", "mask_tokens"):
        assert to_huggingface(name) == name
    assert to_huggingface("blocks.0.norm11.weight") == "model.encoder.layers.0.norm11.weight"


def test_from_pretrained_and_save_pretrained_are_the_same_doors(saved, tmp_path, answer):
    model = SegGptForImageSegmentation.from_pretrained(saved.folder)
    assert torch.equal(answer(model), answer(saved.model))
    encoder = SegGptModel.from_pretrained(saved.folder, dtype=torch.bfloat16)
    assert isinstance(encoder, SegGptModel)
    assert encoder.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == dict(model.named_parameters()).keys()
    assert digest(tmp_path / "again" / "model.safetensors") == digest(saved.folder / "model.safetensors")


def test_equal_networks_make_equal_files(saved, tmp_path):
    for folder in ("one", "two", "three"):
        save(saved.model, tmp_path / folder)
    assert len({digest(path) for path in tmp_path.glob("*/model.safetensors")}) == 1


@pytest.mark.parametrize("note", ["é ☃ \x7f", 'quotes " and \\ and / and \n\t\x01'])
def test_odd_words_in_a_config_survive(saved, tmp_path, note):
    odd = SegGptForImageSegmentation(replace(TINY, extra={"note": note})).eval()
    save(odd, tmp_path / "odd")
    (tmp_path / "odd" / "config.json").unlink()
    assert resolve(tmp_path / "odd" / "model.safetensors").config.extra["note"] == note


def test_the_processor_is_read_or_made_up(saved):
    beside = saved.folder / "preprocessor_config.json"
    assert SegGptImageProcessor.from_pretrained(saved.folder).to_dict() == json.loads(beside.read_text())
    beside.unlink()
    for source in (saved.folder, saved.folder / "model.safetensors"):
        assert SegGptImageProcessor.from_pretrained(source).size == (64, 64)
    (saved.folder / "config.json").unlink()
    assert SegGptImageProcessor.from_pretrained(saved.folder / "model.safetensors").size == (64, 64)
    for content in ("", "[]", "\udcff"):
        beside.write_text(content, errors="surrogateescape")
        with pytest.raises(CheckpointError, match="is not a preprocessor config"):
            SegGptImageProcessor.from_pretrained(saved.folder)


def test_a_processor_of_ones_own_survives_its_network_being_saved_beside_it(saved):
    own = SegGptImageProcessor(TINY.half_size, image_mean=(0.5, 0.5, 0.5), do_rescale=False, num_labels=3)
    own.save_pretrained(saved.folder)
    saved.model.save_pretrained(saved.folder)
    assert vars(SegGptImageProcessor.from_pretrained(saved.folder)) == vars(own)
    theirs = transformers.AutoImageProcessor.from_pretrained(saved.folder, backend="pil")
    assert (list(theirs.image_mean), theirs.do_rescale, theirs.num_labels) == ([0.5, 0.5, 0.5], False, 3)


def test_a_processor_is_saved_and_read_without_a_network_and_settings_may_be_replaced(tmp_path):
    SegGptImageProcessor((30, 40), num_labels=3).save_pretrained(tmp_path / "new" / "folder")
    again = SegGptImageProcessor.from_pretrained(tmp_path / "new" / "folder", num_labels=5)
    assert (again.size, again.num_labels) == ((30, 40), 5)
    assert SegGptImageProcessor.from_pretrained(tmp_path / "new" / "folder", size=None).size == (30, 40)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_passes_through_json(saved):
    checkpoint = resolve(saved.folder)
    again = Checkpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict())))
    assert again == checkpoint
    assert again.config.extra == checkpoint.config.extra


# --- precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_load_in_the_precision_that_is_asked_for_or_stored(saved, tmp_path, answer, dtype):
    wanted = answer(saved.model)
    tolerance = {torch.float32: 0.0, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    asked = load(resolve(saved.folder), dtype=dtype)
    save(saved.model, tmp_path / "stored", dtype=dtype)
    stored = load(resolve(tmp_path / "stored"))
    for model in (asked, stored):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert relative_rms(answer(model), wanted) <= tolerance
    assert saved.model.dtype == torch.float32
    written = json.loads((tmp_path / "stored" / "config.json").read_text())
    assert written["dtype"] == str(dtype).removeprefix("torch.")
    theirs = transformers.SegGptForImageSegmentation.from_pretrained(tmp_path / "stored", dtype="auto")
    assert theirs.dtype == dtype


def test_a_file_of_mixed_precisions_loads_in_the_widest(saved, tmp_path):
    tensors = load_file(saved.folder / "model.safetensors")
    tensors["decoder.decoder_embed.weight"] = tensors["decoder.decoder_embed.weight"].half()
    shutil.copy(saved.folder / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    assert {parameter.dtype for parameter in load(resolve(tmp_path)).parameters()} == {torch.float32}


def test_training_a_mapped_network_leaves_the_file_alone(saved):
    path = saved.folder / "model.safetensors"
    before = digest(path)
    model = load(resolve(saved.folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert digest(path) == before
    assert not torch.equal(next(load(resolve(saved.folder)).parameters()), next(model.parameters()))


def test_a_network_may_be_saved_over_the_file_that_it_is_mapped_from(saved, answer):
    wanted = answer(saved.model)
    model = load(resolve(saved.folder))
    save(model, saved.folder, dtype=torch.bfloat16)
    assert torch.equal(answer(model), wanted)
    assert load(resolve(saved.folder)).dtype == torch.bfloat16
    assert sorted(path.name for path in saved.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_loading_leaves_the_random_state_alone(saved):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load(resolve(saved.folder))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_metadata_of_a_saved_file_says_what_it_is(saved):
    with safe_open(saved.folder / "model.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert SegGptConfig.from_dict(json.loads(metadata["seggpt_config"])) == TINY


def test_two_seeds_give_two_answers(saved, answer):
    other = SegGptForImageSegmentation(TINY).eval()
    draw_weights(other, seed=1)
    assert relative_rms(answer(other), answer(saved.model)) > 1e-2
    assert draw_batch(TINY, 1, 0)["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("asked", "given"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16), (None, torch.float32)],
)
def test_a_precision_may_be_named_as_in_transformers(saved, asked, given):
    assert SegGptForImageSegmentation.from_pretrained(saved.folder, dtype=asked).dtype == given
    assert SegGptForImageSegmentation.from_pretrained(saved.folder, torch_dtype=asked).dtype == given


@pytest.mark.parametrize("kind", [SegGptForImageSegmentation, SegGptModel, SegGptImageProcessor, SegGptConfig])
def test_an_argument_that_is_not_known_is_refused_with_those_that_are(saved, kind):
    said = f"{kind.__name__}.from_pretrained got subfolder, variant; it takes .*, revision, cache_dir, token"
    with pytest.raises(TypeError, match=said):
        kind.from_pretrained(saved.folder, subfolder="x", variant="fp16")


def test_arguments_of_transformers_that_change_nothing_here_are_taken(saved, answer):
    model = SegGptForImageSegmentation.from_pretrained(
        saved.folder,
        low_cpu_mem_usage=True,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="eager",
        device_map="cpu",
    )
    assert torch.equal(answer(model), answer(saved.model))
    assert SegGptImageProcessor.from_pretrained(saved.folder, use_fast=False).size == TINY.half_size


@pytest.mark.parametrize("asked", ["auto", {"": 0}, "everywhere"])
def test_a_device_map_that_is_not_one_device_is_refused(saved, asked):
    with pytest.raises(ValueError, match=re.escape(f"device is {asked!r}; it must be one device")):
        SegGptForImageSegmentation.from_pretrained(saved.folder, device_map=asked)


def test_a_device_that_is_not_there_is_refused(saved):
    with pytest.raises(ValueError, match=r"got 'cuda:77'; this machine has .*cpu"):
        SegGptForImageSegmentation.from_pretrained(saved.folder, device="cuda:77")


@pytest.mark.parametrize("asked", ["int8", torch.int8, "half-ish", "nn"])
def test_an_unknown_precision_is_refused_by_name(saved, asked):
    with pytest.raises(ValueError, match=f"dtype is {asked!r}"):
        SegGptForImageSegmentation.from_pretrained(saved.folder, dtype=asked)
