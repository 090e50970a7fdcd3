"""The attention kernel itself, as Triton programs; `model.kernels.triton_attention` starts them.

A program owns one head and up to `queries` tokens of one canvas. It first multiplies its queries with the two
tables of distances: that gives each query's term per canvas row and per canvas column, (queries, rows) and
(queries, columns), which it puts down in a scratch buffer. Then it walks over the keys by whole canvas rows. There the
column term is the same for every step and stays in registers, and the row term is one number per query and row, so
the bias is a broadcast add; it is the accumulator that the product of queries and keys starts from.

An ensemble needs the mean over its pairs of attention over [input half, prompt half of the pair]. Every such softmax
begins with the same keys, so a program walks the input half once, keeps the state of its running softmax, and goes on
from there with each prompt half in turn. No pass merges parts afterwards.

Annotations are Triton's: the compiler reads them. Source: FlashAttention-2, arXiv:2307.08691; decomposed position
terms: MViTv2, arXiv:2112.01526.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Bias of a key that is not there. Finite: an infinity less an infinity would be no number.
_ABSENT = tl.constexpr(-1e30)
_LOG2_E = tl.constexpr(1.4426950408889634)
# Entries of a table of distances that are multiplied at once.
_ENTRIES = tl.constexpr(64)


@triton.jit
def _product(left: tl.tensor, right: tl.tensor, start: tl.tensor, precision: tl.constexpr) -> tl.tensor:
    """start + left @ right, in float32."""
    if precision == "widened":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc=start, input_precision="ieee")
    return tl.dot(left, right, acc=start, input_precision=precision)


@triton.jit
def _put_terms(
    q: tl.tensor,
    table: tl.tensor,
    terms: tl.tensor,
    place: tl.tensor,
    first: tl.tensor,
    distances: tl.constexpr,
    entries: tl.constexpr,
    head_dim: tl.constexpr,
    width: tl.constexpr,
    queries: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """terms[key, query] = q . table[place(query) - key + keys - 1] / scale, for table entries from `first` on."""
    keys: tl.constexpr = (distances + 1) // 2
    m = tl.arange(0, queries)
    d = tl.arange(0, width)
    inverse_scale = tl.sqrt(head_dim * 1.0)
    for start in range(0, entries, _ENTRIES):
        entry = first + start + tl.arange(0, _ENTRIES)
        piece = tl.load(
            table + entry[None, :] * head_dim + d[:, None],
            mask=(entry[None, :] < distances) & (d[:, None] < head_dim),
            other=0.0,
        )
        values = _product(q, piece, tl.zeros((queries, _ENTRIES), tl.float32), precision) * inverse_scale
        key = place[:, None] + (keys - 1) - entry[None, :]
        tl.store(terms + key * queries + m[:, None], values, mask=(key >= 0) & (key < keys))


@triton.jit
def _row_terms(
    terms: tl.tensor, step: tl.tensor, half_rows: tl.constexpr, queries: tl.constexpr, key_rows: tl.constexpr
) -> tl.tuple:
    """What each query adds on the first two canvas rows of a step, (queries,) each; loaded one step ahead."""
    steps_per_half: tl.constexpr = (half_rows + key_rows - 1) // key_rows
    is_input = step >= steps_per_half
    row = (step - tl.where(is_input, steps_per_half, 0)) * key_rows
    m = tl.arange(0, queries)
    now = terms + (row + tl.where(is_input, half_rows, 0)) * queries + m
    first = tl.load(now)
    second = first
    if key_rows > 1:
        second = tl.load(now + queries, mask=row + 1 + m * 0 < half_rows, other=0.0)
    return first, second


@triton.jit
def _walk(
    q: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    mixed: tl.tensor,
    keys: tl.tensor,
    prompt_row: tl.tensor,
    input_row: tl.tensor,
    stride: tl.tensor,
    terms: tl.tensor,
    column_terms: tl.tensor,
    first_step: tl.constexpr,
    last_step: tl.constexpr,
    hidden: tl.constexpr,
    head_dim: tl.constexpr,
    width: tl.constexpr,
    half_rows: tl.constexpr,
    columns: tl.constexpr,
    padded: tl.constexpr,
    queries: tl.constexpr,
    key_rows: tl.constexpr,
    is_relative: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tuple:
    """Go on with a running softmax over key rows; steps 0.. are the prompt half, and then come the input half's.

    Logits here are the true ones over the scale, so that the product of queries and keys needs no multiplication.
    """
    steps_per_half: tl.constexpr = (half_rows + key_rows - 1) // key_rows
    to_exponent = _LOG2_E / tl.sqrt(head_dim * 1.0)
    m = tl.arange(0, queries)
    n = tl.arange(0, key_rows * padded)
    d = tl.arange(0, width)
    within = n // padded  # which of the step's rows
    column = n % padded
    first, second = largest, largest
    if is_relative:
        first, second = _row_terms(terms, first_step, half_rows, queries, key_rows)
    for step in range(first_step, last_step):
        is_input = step >= steps_per_half
        row = (step - tl.where(is_input, steps_per_half, 0)) * key_rows
        token = tl.where(is_input, input_row, prompt_row)
        place = (row + within) * columns + column
        is_there = (column < columns) & (row + within < half_rows)
        key = keys + token.to(tl.int64) * stride
        k = tl.load(
            key + place[None, :] * stride + d[:, None], mask=is_there[None, :] & (d[:, None] < head_dim), other=0.0
        )
        bias = column_terms
        if is_relative:
            now = terms + (row + tl.where(is_input, half_rows, 0)) * queries + m
            spread = first[:, None] + tl.zeros_like(bias)
            if key_rows > 1:
                spread = tl.where((within == 1)[None, :], second[:, None], spread)
            for other in tl.static_range(2, key_rows):
                more = tl.load(now + other * queries, mask=row + other + m * 0 < half_rows, other=0.0)
                spread = tl.where((within == other)[None, :], more[:, None], spread)
            bias += spread
            first, second = _row_terms(terms, step + 1, half_rows, queries, key_rows)
        if half_rows % key_rows != 0:
            bias = tl.where((row + within < half_rows)[None, :], bias, _ABSENT)
        logits = _product(q, k, bias, precision)
        larger = tl.maximum(largest, tl.max(logits, 1) * to_exponent)
        shrink = tl.exp2(largest - larger)
        weights = tl.exp2(logits * to_exponent - larger[:, None])
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(
            key + hidden + place[:, None] * stride + d[None, :],
            mask=is_there[:, None] & (d[None, :] < head_dim),
            other=0.0,
        )
        mixed = _product(weights.to(v.dtype), v, mixed * shrink[:, None], precision)
        largest = larger
    return largest, total, mixed


@triton.jit
def attend(
    qkv: tl.tensor,
    result: tl.tensor,
    plan: tl.tensor,
    table_h: tl.tensor,
    table_w: tl.tensor,
    terms: tl.tensor,
    stride: tl.tensor,
    hidden: tl.constexpr,
    head_dim: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    padded: tl.constexpr,
    queries: tl.constexpr,
    key_rows: tl.constexpr,
    is_relative: tl.constexpr,
    is_averaged: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """One head and one entry of the plan."""
    half_rows: tl.constexpr = rows // 2
    steps: tl.constexpr = (half_rows + key_rows - 1) // key_rows
    head = tl.program_id(0)
    program = plan + tl.program_id(1) * 10
    query_row, count, place = tl.load(program), tl.load(program + 1), tl.load(program + 2)
    result_row, input_row = tl.load(program + 3), tl.load(program + 4)
    prompt_row, split = tl.load(program + 5), tl.load(program + 6)
    jump, result_jump, prompts = tl.load(program + 7), tl.load(program + 8), tl.load(program + 9)
    m = tl.arange(0, queries)
    d = tl.arange(0, width)
    asks = (m[:, None] < count) & (d[None, :] < head_dim)
    query = query_row.to(tl.int64) + m + tl.where(m >= split, jump, 0)
    q = tl.load(qkv + query[:, None] * stride + head * head_dim + d[None, :], mask=asks, other=0.0)
    column = tl.arange(0, key_rows * padded) % padded
    column_terms = tl.where((column < columns)[None, :], 0.0, _ABSENT) + tl.zeros((queries, 1), tl.float32)
    if is_relative:
        terms += (tl.program_id(1) * tl.num_programs(0) + head).to(tl.int64) * ((rows + columns) * queries)
        of_columns = terms + rows * queries
        # The queries of a program lie on few canvas rows, so they need few entries more than there are keys.
        span: tl.constexpr = (queries + columns - 2) // columns
        _put_terms(
            q, table_h, terms, (place + m) // columns, place // columns,
            2 * rows - 1, rows + span, head_dim, width, queries, precision,
        )  # fmt: skip
        _put_terms(
            q, table_w, of_columns, (place + m) % columns, 0,
            2 * columns - 1, 2 * columns - 1, head_dim, width, queries, precision,
        )  # fmt: skip
        tl.debug_barrier()  # other threads of the program read what this one wrote
        column_terms = tl.load(
            of_columns + column[None, :] * queries + m[:, None], mask=(column < columns)[None, :], other=_ABSENT
        )
        # Adds nothing, but as the result of a product the terms lie in registers as the products of the walk do.
        # Otherwise every step would bring its bias into that order, through shared memory.
        nothing = tl.zeros((queries, width), q.dtype)
        entry = tl.load(table_w + d[:, None] + column[None, :] * 0, mask=d[:, None] < head_dim, other=0.0)
        column_terms = _product(nothing, entry, column_terms, precision)
    keys = qkv + hidden + head * head_dim
    largest = tl.full((queries,), _ABSENT, tl.float32)
    total = tl.zeros((queries,), tl.float32)
    mixed = tl.zeros((queries, width), tl.float32)
    if is_averaged:
        largest, total, mixed = _walk(
            q, largest, total, mixed, keys, prompt_row, input_row, stride, terms, column_terms, steps, 2 * steps,
            hidden, head_dim, width, half_rows, columns, padded, queries, key_rows, is_relative, precision,
        )  # fmt: skip
        mean = tl.zeros((queries, width), tl.float32)
        for prompt in range(prompts):
            _, whole, sums = _walk(
                q, largest, total, mixed, keys, prompt_row + prompt * (half_rows * columns), input_row, stride, terms,
                column_terms, 0, steps,
                hidden, head_dim, width, half_rows, columns, padded, queries, key_rows, is_relative, precision,
            )  # fmt: skip
            mean += sums / whole[:, None]
        mixed = mean / prompts
    else:
        _, total, mixed = _walk(
            q, largest, total, mixed, keys, prompt_row, input_row, stride, terms, column_terms, 0, 2 * steps,
            hidden, head_dim, width, half_rows, columns, padded, queries, key_rows, is_relative, precision,
        )  # fmt: skip
        mixed = mixed / total[:, None]
    answer = result_row.to(tl.int64) + m + tl.where(m >= split, result_jump, 0)
    tl.store(
        result + answer[:, None] * hidden + head * head_dim + d[None, :],
        mixed.to(result.dtype.element_ty),
        mask=asks,
    )
