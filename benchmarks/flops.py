"""How many operations and bytes a forward asks for, part by part, from the sizes of its products.

A multiplication and its addition count as two. Norms, softmax and gelu are left out, as everywhere where the rate of a
device is quoted. Knows configurations only; that the counts are those of the network is checked in the tests against
torch's own counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model.config import SegGptConfig

PRODUCT_PARTS = (
    "embedding",
    "qkv",
    "position terms",
    "attention products",
    "proj",
    "mlp",
    "decoder linear",
    "decoder convolution",
)
GIGA = 1e9


@dataclass(frozen=True)
class Request:
    """What is asked of the network, and what of it is there already.

    Args:
        pairs: canvases; (example, input image) pairs.
        groups: input images.
        answer_only: without what only the prompt half's painting needs.
        known_prompt: the mask stream up to the merge is kept from an earlier request.
        known_first_keys: so are the prompt images' embedding and what the first block's qkv makes of it.
        whole_queries: the last block makes queries of all tokens, asked for or not, as the network does: one product
            for queries, keys and values is faster than two.
        shared_input: an ensemble's input tokens attend to each other once, not once per example.
    """

    pairs: int = 1
    groups: int = 1
    answer_only: bool = True
    known_prompt: bool = False
    known_first_keys: bool = False
    whole_queries: bool = True
    shared_input: bool = False


@dataclass(frozen=True)
class Product:
    """`times` products of a (rows, inner) and an (inner, columns) matrix.

    Args:
        part: one of PRODUCT_PARTS.
        rows: of the first factor.
        inner: what is summed over.
        columns: of the second factor.
        times: how many such products there are.
        read: numbers per row that have to come from memory; a convolution reads each of its inputs once.
    """

    part: str
    rows: int
    inner: int
    columns: int
    times: int = 1
    read: int | None = None

    @property
    def gflop(self) -> float:
        """Billions of multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns * self.times / GIGA

    @property
    def numbers(self) -> int:
        """Numbers that go to or from memory when each is moved once."""
        read = self.inner if self.read is None else self.read
        return (self.rows * (read + self.columns) + self.inner * self.columns) * self.times


def products(config: SegGptConfig, request: Request) -> Iterator[Product]:
    """Every matrix product and convolution of one forward of our network.

    Source:
        SegGPT, arXiv:2304.03284, for what is computed; model/encoder.py and model/decoder.py for what is left out.
    """
    assert config.mlp_dim is not None  # the config fills it in
    rows, columns = config.grid
    half, width = rows * columns // 2, config.hidden_size
    pairs, groups = request.pairs, request.groups

    embedded = groups * half + (0 if request.known_first_keys else pairs * half)
    embedded += 0 if request.known_prompt else pairs * half
    yield Product("embedding", embedded, config.num_channels * config.patch_size**2, width)
    last = config.num_hidden_layers - 1
    for index in range(config.num_hidden_layers):
        streams = 2 if index <= config.merge_index and not request.known_prompt else 1
        is_short = request.answer_only and index == last and index > config.merge_index
        asked = columns if is_short else half  # of a prompt half
        queries, keys = streams * (pairs * asked + groups * half), streams * (pairs + groups) * half
        if request.known_first_keys and index == 0:
            yield Product("qkv", groups * half, width, 3 * width)
        elif request.whole_queries or queries == keys:
            yield Product("qkv", keys, width, 3 * width)
        else:
            yield Product("qkv", queries, width, width)
            yield Product("qkv", keys, width, 2 * width)
        yield from _attention(config, request, asked, streams)
        yield Product("proj", queries, width, width)
        yield Product("mlp", queries, width, config.mlp_dim)
        yield Product("mlp", queries, config.mlp_dim, width)

    features = width * len(config.intermediate_hidden_state_indices)
    side, channels = config.patch_size, config.decoder_hidden_size
    if request.answer_only:
        yield Product("decoder linear", groups * half, features, side * side * channels)
        yield Product("decoder linear", groups * columns, features, side * channels)
        painted = groups * (config.half_size[0] + 1) * config.half_size[1]
    else:
        yield Product("decoder linear", pairs * 2 * half, features, side * side * channels)
        painted = pairs * config.image_size[0] * config.image_size[1]
    yield Product("decoder convolution", painted, 9 * channels, channels, read=channels)
    yield Product("decoder convolution", painted, channels, config.num_channels)


def _attention(config: SegGptConfig, request: Request, asked: int, streams: int) -> Iterator[Product]:
    """The products of one block's attention, every stream's."""
    rows, columns = config.grid
    half, head = rows * columns // 2, config.head_dim
    canvases, inputs = (streams * config.num_attention_heads * count for count in (request.pairs, request.groups))
    queries = asked + half
    if request.shared_input:
        couples = ((canvases, asked, 2 * half), (canvases, half, half), (inputs, half, half))
        placed = ((canvases, asked), (inputs, half))
    else:
        couples, placed = ((canvases, queries, 2 * half),), ((canvases, queries),)  # type: ignore[assignment]
    for times, count, keys in couples:
        yield Product("attention products", count, head, keys, times)
        yield Product("attention products", count, keys, head, times)
    if config.use_relative_position_embeddings:
        for times, count in placed:  # each row of patches has its own table of rows, each column its own of columns
            yield Product("position terms", count, head, rows, times)
            yield Product("position terms", count, head, columns, times)


def forward_gflop(config: SegGptConfig, request: Request) -> dict[str, float]:
    """GFLOP per part (PRODUCT_PARTS) of our network for one request; their sum is the forward's."""
    parts = dict.fromkeys(PRODUCT_PARTS, 0.0)
    for product in products(config, request):
        parts[product.part] += product.gflop
    return parts


def forward_gigabytes(config: SegGptConfig, request: Request, bytes_per_number: int) -> dict[str, float]:
    """The least traffic with memory per part, in 10^9 bytes: each number of each product is moved once.

    Of the attention products that is an upper bound: their logits may stay in a cache.
    """
    parts = dict.fromkeys(PRODUCT_PARTS, 0.0)
    for product in products(config, request):
        parts[product.part] += product.numbers * bytes_per_number / GIGA
    return parts


def reference_gflop(config: SegGptConfig, pairs: int) -> float:
    """GFLOP of both public implementations: all pairs and canvases whole, the unknown masks embedded too."""
    parts = forward_gflop(config, Request(pairs=pairs, groups=pairs, answer_only=False))
    rows, columns = config.grid
    unknown = Product(
        "embedding", pairs * rows * columns // 2, config.num_channels * config.patch_size**2, config.hidden_size
    )
    return sum(parts.values()) + unknown.gflop
