"""What loading costs in memory: stored weights are mapped, cast ones are made without a second copy beside them."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import SegGptConfig, SegGptForImageSegmentation
from model.checkpoint import load, resolve, save
from model.pages import release_pages, release_unused
from model.weights import converted, map_tensors
from tests.model.conftest import write_original

ROOT = Path(__file__).parents[2]
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells mappings by Linux's /proc")


def mapped_ranges(path: Path) -> list[range]:
    """Where a file lies in this process's memory."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


@needs_proc
@pytest.mark.parametrize("form", ["safetensors", "original"])
def test_weights_are_mapped_from_the_file_not_copied(saved, tmp_path, form):
    path = saved.folder / "model.safetensors"
    if form == "original":
        path = write_original(saved.folder / "original.pth", saved.model)
    model = load(resolve(path))
    ranges = mapped_ranges(path)
    assert all(any(weight.data_ptr() in part for part in ranges) for weight in model.parameters())


def written(path: Path, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, mapped from a file, behind another one so that it does not begin at a page."""
    save_file({"a": torch.zeros(3), "b": tensor}, path)
    return map_tensors(path)["b"]


def resident_bytes(tensor: torch.Tensor) -> int:
    """How much of the mapping that a tensor lies in is in this process's memory."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_it = tensor.data_ptr() in range(*(int(end, 16) for end in words[0].split("-")))
        elif is_it and words[0] == "Rss:":
            return int(words[1]) * 1024
    raise AssertionError("it lies nowhere")


@pytest.mark.parametrize("piece_bytes", [1, 4096, 10_000, 2**30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_mapped_tensor_read_in_pieces_is_what_a_plain_cast_gives(tmp_path, dtype, piece_bytes):
    tensor = torch.randn(37, 131, generator=torch.Generator().manual_seed(0))
    mapped = written(tmp_path / "a.safetensors", tensor)
    result = converted(mapped, dtype, piece_bytes=piece_bytes)
    assert result.dtype == dtype
    assert torch.equal(result, tensor.to(dtype))
    assert torch.equal(mapped, tensor)  # reading it again reads the file again


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1,), (3, 0)])
def test_tensors_of_no_or_one_number_are_cast_too(shape):
    assert torch.equal(converted(torch.ones(shape), torch.bfloat16), torch.ones(shape, dtype=torch.bfloat16))


def test_a_tensor_that_is_no_block_of_memory_is_cast_too():
    tensor = torch.arange(12.0).view(3, 4).T
    assert torch.equal(converted(tensor, torch.float64), tensor.double())


def test_a_tensor_that_needs_no_change_is_not_copied(tmp_path):
    mapped = written(tmp_path / "a.safetensors", torch.ones(10_000))
    assert converted(mapped, torch.float32).data_ptr() == mapped.data_ptr()


@needs_proc
def test_pages_are_given_back_while_a_tensor_is_read(tmp_path):
    mapped = written(tmp_path / "a.safetensors", torch.ones(2**20))
    assert float(mapped.sum()) == 2**20
    assert resident_bytes(mapped) >= mapped.nbytes
    converted(mapped, torch.bfloat16, piece_bytes=2**18)
    assert resident_bytes(mapped) < mapped.nbytes // 4


@needs_proc
def test_released_pages_leave_memory_and_are_read_again_when_wanted(tmp_path):
    mapped = written(tmp_path / "a.safetensors", torch.arange(2.0**20))
    assert float(mapped[-1]) == 2**20 - 1
    mapped.sum()
    release_pages(mapped)
    assert resident_bytes(mapped) < mapped.nbytes // 4
    assert torch.equal(mapped, torch.arange(2.0**20))


def test_changes_to_a_mapped_tensor_outlive_every_reading(tmp_path):
    mapped = written(tmp_path / "a.safetensors", torch.zeros(2**20))
    mapped[5000:5003] = 1.0
    for _ in range(2):
        release_pages(mapped)
        assert float(converted(mapped, torch.bfloat16, piece_bytes=2**16).sum()) == 3.0
    assert float(mapped.sum()) == 3.0


def test_memory_that_is_no_file_keeps_its_content():
    tensor = torch.arange(2.0**20)
    release_pages(tensor)
    release_pages(tensor.view(1024, 1024).T)
    assert torch.equal(tensor, torch.arange(2.0**20))


def resident_libraries() -> int:
    """Bytes of unchanged pages of program libraries in this process's memory."""
    total, is_library = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_library = ".so" in words[-1] and "w" not in words[1]
        elif is_library and words[0] == "Rss:":
            total += int(words[1]) * 1024
        elif is_library and words[0] == "Anonymous:":
            total -= int(words[1]) * 1024
    return total


@needs_proc
def test_what_only_starting_needed_leaves_memory_and_everything_goes_on():
    wanted = torch.arange(12.0).view(3, 4) @ torch.arange(8.0).view(4, 2)
    before = resident_libraries()
    release_unused()
    assert resident_libraries() < before / 2
    assert torch.equal(torch.arange(12.0).view(3, 4) @ torch.arange(8.0).view(4, 2), wanted)


@needs_proc
def test_a_library_that_was_changed_in_memory_keeps_its_changes(tmp_path):
    path = tmp_path / "relocated.so"
    path.write_bytes(bytes(4 * mmap.PAGESIZE))
    libc = ctypes.CDLL(None)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        memory[5] = 7  # as a loader writes addresses, before it makes the pages read-only
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(len(memory)), 1) == 0  # PROT_READ
        release_unused()
        assert memory[5] == 7


MEASURE = """
import sys, torch
from pathlib import Path
from model.checkpoint import load, resolve
torch.set_num_threads(1)
def bytes_of(field):  # of this process alone: ru_maxrss would begin at its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
checkpoint = resolve(sys.argv[1])
peak, anonymous = bytes_of("VmHWM"), bytes_of("RssAnon")
model = load(checkpoint, dtype=None if sys.argv[2] == "stored" else getattr(torch, sys.argv[2]))
checksum = sum(float(weight.detach().flatten()[::512].sum()) for weight in model.parameters())  # reads every page
size = sum(weight.nbytes for weight in model.parameters())
print(size, bytes_of("VmHWM") - peak, bytes_of("RssAnon") - anonymous, bytes_of("VmHWM"))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_loading_vit_large_holds_little_beside_its_weights(tmp_path_factory, form):
    folder = tmp_path_factory.mktemp("large")
    model = SegGptForImageSegmentation(SegGptConfig())
    save(model, folder)
    path = folder / "model.safetensors" if form == "safetensors" else write_original(folder / "original.pth", model)
    del model
    for dtype in ("stored", "bfloat16"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), dtype], cwd=ROOT, capture_output=True, text=True, check=True
        )
        size, peak, anonymous, whole = (int(number) for number in done.stdout.split())
        measured = f"peak +{peak / 1e9:.2f} GB to {whole / 1e9:.2f} GB, anonymous +{anonymous / 1e9:.2f} GB"
        print(f"{form} {dtype}: {size / 1e9:.2f} GB of weights, {measured}")  # noqa: T201
        assert size == 370_723_203 * (4 if dtype == "stored" else 2)
        assert 0.9 * size < peak < size + 100e6
        if dtype == "stored":
            assert anonymous < 0.1 * size  # all of it is the file's own pages, which the system may drop and read again
        else:
            assert anonymous < size + 100e6
    shutil.rmtree(folder)
