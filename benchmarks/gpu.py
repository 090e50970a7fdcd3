"""`python -m benchmarks.gpu`: the GPU's table in one call: right answers first, then rates beside transformers'.

Everything is measured in this one process: ViT-L's shape, random weights, the same ones for all. "Ours" is what the
service's worker runs (`model.runner`), from uint8 pixels on the GPU to grey answers on the GPU, prompts known;
transformers begin with normalised pictures and end with painted ones. The results are written again after every
section, so a call that is cut short leaves what it had; `python -m benchmarks document` puts them into the documents.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvloop

from benchmarks import gpu_measure as measure
from benchmarks import gpu_service
from benchmarks.flops import Request, forward_gflop, reference_gflop
from benchmarks.report import RESULTS, Machine, Spread, Table, ratios, store, this_machine
from model import SegGptConfig
from model.checkpoint import save
from model.kernels.choice import LIMITS, candidates, draw, layout_of, replay_ms, worst_error
from model.runner import Runner

BATCHES = (1, 8, 32)
BUCKETS = (1, 2, 4, 8, 16, 32)
# Pairs of the service's largest batches, and clients that are enough to fill two of them.
SERVED = ((8, 32), (32, 96))
DATA_SHEET_TFLOPS = 790.0  # issue 3's figure: a large bfloat16 product on an H200


def attention_gflop(config: SegGptConfig, pairs: int) -> float:
    """Of one block's two products of lone pairs, without the position terms."""
    tokens = config.grid[0] * config.grid[1]
    return 4 * pairs * tokens**2 * config.hidden_size / 1e9


def share_of_peak(gflop: float, ms: float, peak_tflops: float) -> float:
    """How much of a rate was reached, 1 for all of it."""
    return gflop / ms / peak_tflops


def known_gflop(config: SegGptConfig, pairs: int, groups: int) -> float:
    """What an answer needs when its prompt is known, the ensemble's shared part counted once."""
    request = Request(pairs=pairs, groups=groups, known_prompt=True, shared_input=groups != pairs)
    return sum(forward_gflop(config, request).values())


def rate_rows(pairs: int, times: dict[str, Spread], needed: dict[str, float], peak: float) -> list[list[str]]:
    """Rows of the table of rates; the first of `times` is what the others are compared with."""
    first = next(iter(times.values()))
    rows = []
    for name, spread in times.items():
        quotient = ratios(spread.values, first.values)
        images = Spread(tuple(1000 * pairs / ms for ms in spread.values))
        share = share_of_peak(needed[name], spread.median, peak)
        rows.append([name, str(pairs), spread.text(3), images.text(1), f"{share:.0%}", quotient.text(2)])
    return rows


@dataclass
class Bench:
    """What the sections share and what they found."""

    config: SegGptConfig
    device: torch.device
    out: Path
    ends_at: float
    rounds: int
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    peak_tflops: float = DATA_SHEET_TFLOPS

    def section(self, name: str, work: Callable[[Bench], None], needs_s: float) -> None:
        """Run one, if the time for it is left; what goes wrong in it ends it alone. Write what there is."""
        left = self.ends_at - time.monotonic()
        started = time.monotonic()
        if left < needs_s:
            self.notes.append(f"{name}: left out, {left:.0f} s were left and it may take {needs_s:.0f}")
        else:
            try:
                work(self)
            except (Exception, SystemExit) as error:  # a section's fault must not cost the others' results
                traceback.print_exc()
                self.notes.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            torch.cuda.empty_cache()
        took = time.monotonic() - started
        print(f"[{name}: {took:.1f} s]", flush=True)
        self.result.setdefault("section_s", {})[name] = took
        self.write()

    def add(self, title: str, table: Table) -> None:
        """Keep a table and show it."""
        self.tables[title] = table
        print(f"\n{title}\n{table.text()}", flush=True)

    def write(self) -> None:
        """What there is, to disk."""
        self.result["machine"], self.result["notes"] = this_machine("python -m benchmarks.gpu").to_dict(), self.notes
        self.result["tables"] = {
            title: [list(table.head), *map(list, table.rows)] for title, table in self.tables.items()
        }
        store("gpu", self.result, self.out)

    def runner(self, precision: str) -> Runner:
        """Ours, made once."""
        if precision not in self.runners:
            self.runners[precision] = Runner(
                measure.our_network(self.config, self.weights, self.device),
                precision,  # type: ignore[arg-type]  # one of the precisions
            )
        return self.runners[precision]


def rates_of_the_gpu(bench: Bench) -> None:
    """The ceilings: products and copies."""
    bench.weights = measure.draw_weights(bench.config, bench.device)
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    found = {name: measure.matrix_tflops(dtype) for name, dtype in dtypes.items()}
    bench.peak_tflops = found["bfloat16"]
    copied = measure.copy_terabytes_per_s()
    bench.result["peaks_tflops"], bench.result["copy_tb_per_s"] = found, copied
    rows = [[f"product of 8192 x 8192, {name}", f"{rate:.0f} TFLOP/s"] for name, rate in found.items()]
    bench.add("What the GPU gives", Table(("what", "rate"), [*rows, ["copy, read + written", f"{copied:.2f} TB/s"]]))


def attention(bench: Bench) -> None:
    """Each kernel: is it right, and how fast is one block's attention."""
    config, device = bench.config, bench.device
    rows = []
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        block = "model.encoder.layers.0.attention"
        of_rows, of_columns = (bench.weights[f"{block}.rel_pos_{axis}"].to(dtype) for axis in "hw")
        for kernel in candidates(config, of_rows, of_columns, device):
            label = f"{kernel.name} {_cut_of(kernel)}".strip()
            try:
                error = worst_error(kernel, config, of_rows, of_columns, device, dtype)
                times = [_attention_ms(kernel, config, pairs, device, dtype) for pairs in BATCHES]
            except Exception as fault:  # this kernel's alone
                rows.append([label, name, f"{type(fault).__name__}", *["-"] * 2 * len(BATCHES)])
                continue
            verdict = f"{error:.1e}" + ("" if error <= LIMITS[dtype] else " WRONG")
            speed = [attention_gflop(config, pairs) / ms for pairs, ms in zip(BATCHES, times, strict=True)]
            cells = [
                cell for ms, rate in zip(times, speed, strict=True) for cell in (f"{ms * 1000:.0f}", f"{rate:.0f}")
            ]
            rows.append([label, name, verdict, *cells])
    heads = [head for pairs in BATCHES for head in (f"{pairs}: us", "TFLOP/s")]
    bench.add("Attention of one block, by pairs", Table(("kernel", "precision", "relative rms", *heads), rows))


def _cut_of(kernel: object) -> str:
    tile = getattr(kernel, "tile", None)
    if tile is None:
        return ""
    return (
        f"{tile.queries}x{tile.key_rows} rows, {tile.warps} warps, {tile.stages} stages, {tile.registers or 'any'} regs"
    )


def _attention_ms(kernel: Any, config: SegGptConfig, pairs: int, device: torch.device, dtype: torch.dtype) -> float:
    layout = layout_of(config, (1,) * pairs)
    qkv = draw(config, layout, device, dtype)
    return replay_ms(lambda: kernel(qkv, layout, layout.half_tokens))


def start(bench: Bench) -> None:
    """Cold start and recording."""
    rows = []
    for precision in ("bfloat16", "float16"):
        started = time.perf_counter()
        runner = bench.runner(precision)
        torch.cuda.synchronize()
        prepared = time.perf_counter()
        measure.our_work(runner, measure.Batch.draw(bench.config, (1,), bench.device))()
        torch.cuda.synchronize()
        answered = time.perf_counter()
        took = []
        for pairs in BUCKETS:
            begun = time.perf_counter()
            runner.capture(pairs)
            torch.cuda.synchronize()
            took.append(f"{time.perf_counter() - begun:.2f}")
        mode = runner.mode
        rows.append(
            [f"{mode.precision}, {mode.attention}", f"{prepared - started:.1f}", f"{answered - prepared:.1f}", *took]
        )
    heads = [f"record {pairs}" for pairs in BUCKETS]
    bench.add("Start, seconds", Table(("mode", "prepare", "first answer", *heads), rows))


def answers(bench: Bench) -> None:
    """How far our answers are from transformers' float32 ones, and graphs' from those without."""
    config, device = bench.config, bench.device
    truth_model = measure.their_network(config, bench.weights, device, torch.float32)
    batch = measure.Batch.draw(config, (1, 1), device)
    with torch.inference_mode():
        painted = truth_model(**batch.theirs(torch.float32)).pred_masks
    truth = painted[:, :, config.half_size[0] :]
    del truth_model
    rows = []
    for precision in ("float32", "bfloat16", "float16"):
        runner = bench.runner(precision)
        assert runner.forward is not None
        layout = runner.forward.layout(batch.group_sizes)
        kinds = torch.zeros(2, dtype=torch.int64, device=device)
        stream = measure.mask_stream(runner, batch)
        with torch.inference_mode():
            got = runner.forward.answers(batch.pixels[:4], layout, kinds, stream.tokens)
            eager = runner.forward.levels(got)[1]
        runner.capture(2)
        replayed = runner.paint(batch.pixels[:4], batch.kinds, batch.group_sizes, stream).levels
        levels = int((replayed.int() - eager.int()).abs().max())
        rows.append([f"{precision}, {runner.mode.attention}", f"{measure.relative_rms(got, truth):.1e}", str(levels)])
    head = ("ours", "relative rms to transformers float32", "levels, graph to eager")
    bench.add("Answers", Table(head, rows))


def rates(bench: Bench, theirs_compiled: Sequence[int] = ()) -> None:
    """Images per second in turn with transformers; with batch sizes given, with transformers compiled for those."""
    config, device = bench.config, bench.device
    rows, figures = [], bench.result.setdefault("rates", [])
    networks = {f"transformers {name}": measure.their_network(config, bench.weights, device, dtype)
                for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
                if not theirs_compiled or name == "bfloat16"}  # fmt: skip
    for pairs in theirs_compiled or BATCHES:
        batch = measure.Batch.draw(config, (1,) * pairs, device)
        works = {f"ours {name}": measure.our_work(bench.runner(name), batch) for name in ("bfloat16", "float16")}
        if not theirs_compiled:
            works["ours bfloat16, new prompt"] = measure.our_work(bench.runner("bfloat16"), batch, is_known=False)
            works["ours bfloat16, no graph"] = measure.our_eager_work(bench.runner("bfloat16"), batch)
        for name, model in networks.items():
            label = f"{name}, compiled" if theirs_compiled else name
            network = torch.compile(model, dynamic=False) if theirs_compiled else model
            works[label] = measure.their_work(network, batch)
        times = measure.alternating_ms(works, bench.rounds, bench.seconds)
        ours, theirs = known_gflop(config, pairs, pairs), reference_gflop(config, pairs)
        needed = {name: ours if name.startswith("ours") else theirs for name in times}
        needed["ours bfloat16, new prompt"] = sum(forward_gflop(config, Request(pairs=pairs, groups=pairs)).values())
        rows += rate_rows(pairs, times, needed, bench.peak_tflops)
        figures += [{"what": name, "pairs": pairs, "ms": spread.values} for name, spread in times.items()]
    head = ("what", "pairs", "ms", "images/s", "of the bfloat16 peak", "its time / ours")
    title = f"Rates, transformers compiled, {theirs_compiled[0]} pairs" if theirs_compiled else "Rates, prompt known"
    bench.add(title, Table(head, rows))


def ensembles(bench: Bench) -> None:
    """One input image with several examples, beside transformers' feature ensemble."""
    config, device = bench.config, bench.device
    theirs = measure.their_network(config, bench.weights, device, torch.bfloat16)
    rows = []
    for pairs in (2, 4, 8):
        batch = measure.Batch.draw(config, (pairs,), device)
        works = {"ours": measure.our_work(bench.runner("bfloat16"), batch), "theirs": measure.their_work(theirs, batch)}
        times = measure.alternating_ms(works, bench.rounds, bench.seconds)
        operations = reference_gflop(config, pairs) / known_gflop(config, pairs, 1)
        quotient = ratios(times["theirs"].values, times["ours"].values)
        rows.append([str(pairs), times["ours"].text(2), times["theirs"].text(2), quotient.text(2), f"{operations:.2f}"])
    head = ("examples", "ours, ms", "transformers bfloat16, ms", "its time / ours", "its operations / ours")
    bench.add("Ensembles", Table(head, rows))


def service(bench: Bench) -> None:
    """The service's answers per second over the bare model's images per second, in turn: 640x480 JPEGs in, PNGs out."""
    rates, loads = [], []
    runner = bench.runner("bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        save(measure.our_network(bench.config, bench.weights, bench.device), Path(folder))
        for pairs, clients in SERVED:
            runner.capture(pairs)
            work = measure.our_work(runner, measure.Batch.draw(bench.config, (1,) * pairs, bench.device))
            repeats = max(2, round(bench.seconds * 300 / pairs))
            bare = partial(_images_per_s, work, pairs, repeats)
            row, later = uvloop.run(gpu_service.served(Path(folder), pairs, clients, bare, bench.rounds, bench.seconds))
            rates.append(row)
            loads += later
    bench.add("Service, ViT-L, bfloat16, 640x480 JPEGs, a registered prompt", Table(gpu_service.RATES_HEAD, rates))
    bench.add("Service, latency over offered load", Table(gpu_service.LOADS_HEAD, loads))


def _images_per_s(work: measure.Work, pairs: int, repeats: int) -> float:
    return 1000 * pairs / measure.elapsed_ms(work, repeats)


def memory(bench: Bench) -> None:
    """Most memory of one forward, weights included; other networks of this process are put away first."""
    bench.runners.clear()
    torch.cuda.empty_cache()
    rows = []
    for pairs in BATCHES:
        runner = bench.runner("bfloat16")
        others = torch.cuda.memory_allocated()
        work = measure.our_work(runner, measure.Batch.draw(bench.config, (1,) * pairs, bench.device))
        work()
        held = sum(weight.nbytes for weight in bench.weights.values())
        rows.append([str(pairs), f"{(others - held) / 1e9:.2f}", f"{(measure.peak_bytes(work) - held) / 1e9:.2f}"])
    bench.add("Memory in GB, ours bfloat16, without a graph", Table(("pairs", "at rest", "most"), rows))


def parts(bench: Bench) -> None:
    """Where the time of a forward goes, and what copying to the GPU costs."""
    rows = []
    runner = bench.runner("bfloat16")
    for pairs in (1, 8):
        runner.capture(pairs)
        work = measure.our_work(runner, measure.Batch.draw(bench.config, (1,) * pairs, bench.device))
        for name, launches, ms in measure.top_kernels(work):
            rows.append([name.replace("|", "/")[:70], str(pairs), str(launches), f"{ms:.3f}"])
    bench.add("Kernels of one forward", Table(("kernel", "pairs", "launches", "ms"), rows))
    cells = torch.randint(0, 256, (64, *bench.config.half_size, 3), dtype=torch.uint8)
    copies = []
    for pairs in BATCHES:
        ms = measure.elapsed_ms(lambda: runner.stage(cells, range(2 * pairs)).ready(), 10)  # noqa: B023  # called at once
        copies.append([str(pairs), f"{ms:.3f}"])
    bench.add("Gathering and copying pixels to the GPU", Table(("pairs", "ms"), copies))


def markdown(result: dict[str, Any]) -> str:
    """What is written into the documents."""
    parts = [f"{result['gpu']}. Measured {Machine(**result['machine']).line()}."]
    parts += [
        f"#### {title}\n\n{Table(tuple(rows[0]), rows[1:]).markdown()}" for title, rows in result["tables"].items()
    ]
    if result["notes"]:
        parts.append("Not measured:\n\n" + "\n".join(f"- {note}" for note in result["notes"]))
    return "\n\n".join(parts)


# What can be asked for, in the order in which all of it is measured, and the seconds that each may take.
SECTIONS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "start": (start, 60),
    "answers": (answers, 40),
    "rates": (rates, 60),
    "ensembles": (ensembles, 20),
    "service": (service, 90),
    "attention": (attention, 60),
    "parts": (parts, 20),
    "memory": (memory, 20),
    **{f"compiled-{pairs}": (partial(rates, theirs_compiled=(pairs,)), 120) for pairs in (8, 1, 32)},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which nothing new begins")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each work in a round")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs an NVIDIA GPU; this machine shows none", file=sys.stderr)
        return 2
    torch.backends.cudnn.allow_tf32 = False
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        SegGptConfig(),
        torch.device("cuda", torch.cuda.current_device()),
        options.out,
        time.monotonic() + options.minutes * 60,
        options.rounds,
        options.seconds,
    )
    bench.result["gpu"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {_triton()}"
    print(bench.result["gpu"], flush=True)
    bench.section("rates of the GPU", rates_of_the_gpu, 10)
    for name in options.only:
        work, needs_s = SECTIONS[name]
        bench.section(name, work, needs_s)
    return 0


def _triton() -> str:
    try:
        import triton  # noqa: PLC0415  # not on every platform
    except ImportError:
        return "no Triton"
    return f"Triton {triton.__version__}"


if __name__ == "__main__":
    sys.exit(main())
