"""What `benchmarks.gpu` measures: networks on the GPU, ours and transformers' with the same weights, and clocks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Spread
from model import SegGptConfig, SegGptForImageSegmentation
from model.colours import normalise
from model.encoder import MaskStream
from model.runner import Runner

Work = Callable[[], object]


def draw_weights(config: SegGptConfig, device: torch.device) -> dict[str, Tensor]:
    """Random float32 weights of a network: std 1 / sqrt(hidden_size), norms around 1, as large as trained ones."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in SegGptForImageSegmentation(config).state_dict().items()}
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, shape in sorted(shapes.items()):
        drawn = torch.randn(shape, generator=generator, device=device) * config.hidden_size**-0.5
        weights[name] = 1 + drawn if "layernorm" in name and name.endswith("weight") else drawn
    return weights


def our_network(
    config: SegGptConfig, weights: Mapping[str, Tensor], device: torch.device
) -> SegGptForImageSegmentation:
    """Ours in float32."""
    with torch.device("meta"):
        model = SegGptForImageSegmentation(config)
    model = model.to_empty(device=device)
    model.load_state_dict(weights)
    return model.eval()


def their_network(config: SegGptConfig, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Any:
    """Transformers', or an ImportError."""
    import transformers  # noqa: PLC0415  # the sections without it run where it is missing

    with device:
        model = transformers.SegGptForImageSegmentation(transformers.SegGptConfig(**config.to_dict()))
    model.load_state_dict(weights)
    cast: Any = model
    return cast.to(dtype).eval()


@dataclass(frozen=True)
class Batch:
    """Pictures of one batch, on the GPU.

    Args:
        pixels: (groups + 2 * pairs, H, W, 3) uint8: input images, prompt images, prompt masks.
        group_sizes: pairs of each group.
    """

    pixels: Tensor
    group_sizes: tuple[int, ...]

    @classmethod
    def draw(cls, config: SegGptConfig, group_sizes: tuple[int, ...], device: torch.device) -> Batch:
        """Random ones."""
        count = len(group_sizes) + 2 * sum(group_sizes)
        generator = torch.Generator(device).manual_seed(1)
        shape = (count, *config.half_size, 3)
        return cls(torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator), group_sizes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """All of one embedding type, because transformers takes no more."""
        return ("instance",) * len(self.group_sizes)

    def theirs(self, dtype: torch.dtype) -> dict[str, Any]:
        """As transformers' network takes it: an input image per pair."""
        groups, pairs = len(self.group_sizes), sum(self.group_sizes)
        inputs, prompts, masks = normalise(self.pixels, dtype).split([groups, pairs, pairs])
        if groups != pairs:
            assert groups == 1, "transformers averages over the whole batch"
            inputs = inputs.expand(pairs, -1, -1, -1)
        return {
            "pixel_values": inputs.contiguous(),
            "prompt_pixel_values": prompts.contiguous(),
            "prompt_masks": masks.contiguous(),
            "embedding_type": "instance",
            "feature_ensemble": groups != pairs,
        }


def our_work(runner: Runner, batch: Batch, *, is_known: bool = True) -> Work:
    """Answer a batch whose prompts are known, or new: pixels on the device to grey answers on the device."""
    groups, pairs = len(batch.group_sizes), sum(batch.group_sizes)
    kept = mask_stream(runner, batch)
    pixels = batch.pixels[: groups + pairs]

    def work() -> object:
        stream = kept if is_known else mask_stream(runner, batch)
        return runner.paint(pixels, batch.kinds, batch.group_sizes, stream)

    return work


def our_eager_work(runner: Runner, batch: Batch) -> Work:
    """The same, prompts known, launched step by step."""
    forward = runner.forward
    assert forward is not None, "this is a GPU's"
    groups, pairs = len(batch.group_sizes), sum(batch.group_sizes)
    layout, stream = forward.layout(batch.group_sizes), mask_stream(runner, batch).tokens
    kinds = torch.zeros(groups, dtype=torch.int64, device=batch.pixels.device)
    pixels = batch.pixels[: groups + pairs]
    return torch.inference_mode()(lambda: forward.levels(forward.answers(pixels, layout, kinds, stream)))


def mask_stream(runner: Runner, batch: Batch) -> MaskStream:
    """What a service keeps of these prompts."""
    masks = batch.pixels[len(batch.group_sizes) + sum(batch.group_sizes) :]
    return runner.mask_stream(masks, batch.kinds, batch.group_sizes)


def their_work(model: Any, batch: Batch) -> Work:
    """One forward of transformers' network on pictures that are normalised already."""
    dtype = next(model.parameters()).dtype
    arguments = batch.theirs(dtype)

    @torch.inference_mode()
    def work() -> object:
        return model(**arguments).pred_masks

    return work


def alternating_ms(works: Mapping[str, Work], rounds: int, seconds: float) -> dict[str, Spread]:
    """Milliseconds of each work, all of them in turn in every round, each run for about `seconds` per round."""
    repeats = {}
    for name, work in works.items():
        for _ in range(2):
            work()
        repeats[name] = max(2, math.ceil(seconds * 1000 / elapsed_ms(work, 2)))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(elapsed_ms(work, repeats[name]))
    return {name: Spread(tuple(values)) for name, values in times.items()}


def elapsed_ms(work: Work, repeats: int) -> float:
    """Milliseconds of one of `repeats` works in a row, by the host's clock: what launches cost counts."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1000 / repeats


def peak_bytes(work: Work) -> int:
    """Most GPU memory that is allocated while `work` runs, weights and everything else that lives included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def matrix_tflops(dtype: torch.dtype, side: int = 8192) -> float:
    """The rate of a large product of random matrices: what this GPU gives, not what its data sheet says."""
    left, right = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
    for _ in range(3):
        torch.mm(left, right)
    return 2 * side**3 / elapsed_ms(partial(torch.mm, left, right), 20) / 1e9


def copy_terabytes_per_s(count: int = 2**31) -> float:
    """The rate of a copy within the GPU's memory, bytes read and bytes written."""
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * count / elapsed_ms(partial(target.copy_, source), 10) / 1e9


def relative_rms(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what was wanted."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def top_kernels(work: Work, count: int = 14) -> list[tuple[str, int, float]]:
    """The kernels that take most of a forward: name, launches, milliseconds."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    recorder: Any = torch.profiler.profile
    with recorder(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    totals: dict[str, tuple[int, float]] = {}
    for event in profile.events():
        if event.device_type.name == "CUDA":
            launches, ms = totals.get(event.name, (0, 0.0))
            totals[event.name] = launches + 1, ms + event.device_time / 1000
    ranked = sorted(totals.items(), key=lambda item: -item[1][1])[:count]
    return [(name, launches, ms) for name, (launches, ms) in ranked]
