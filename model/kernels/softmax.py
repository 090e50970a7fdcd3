"""The softmax of one block of attention logits: scale, position terms, softmax and rounding without leaving the cache.

Keys lie along the rows and queries along the columns, so that vector registers fill with queries whatever the width of
the grid.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from typing import Final

import numpy as np

from model.kernels.numbers import LOG2E, compiled, exp2, fitted, widened

LANES: Final = 64
"""Queries worked on at a time: few enough that the logits of all their keys stay in the second cache."""

# Rows and columns of a square that is transposed at a time: the lines of both sides then stay in the first cache.
_TILE: Final = 16


@compiled
def _fill_terms(terms, first, start, lanes, of_row, of_column):
    """Each query's position terms per key row and per key column, in units of log2."""
    rows, columns = len(of_row), len(of_column)
    for lane in range(lanes):
        row, column = (first + start + lane) // columns, (first + start + lane) % columns
        for key_row in range(rows):
            of_row[key_row, lane] = widened(terms[row - key_row + rows - 1, start + lane]) * np.float32(LOG2E)
        for key_column in range(columns):
            distance = 2 * rows - 1 + column - key_column + columns - 1
            of_column[key_column, lane] = widened(terms[distance, start + lane]) * np.float32(LOG2E)


@compiled
def _logits(keys, start, lanes, scale, of_row, of_column, logits, largest):
    """The logits of one half's keys from their plain products, and the largest, per query."""
    columns = len(of_column)
    # Two rows in turn: a maximum written where it was read becomes a masked store, which AMD's AVX2 cores do slowly.
    before, now = largest, np.empty_like(largest)
    before[:] = np.float32(-3.0e38)
    key = 0
    for key_row in range(len(keys) // columns):
        row_term = of_row[key_row]
        for key_column in range(columns):
            source, target = keys[key, start : start + lanes], logits[key]
            column_term = of_column[key_column]
            for lane in range(lanes):
                value = widened(source[lane]) * scale + (row_term[lane] + column_term[lane])
                target[lane] = value
                now[lane] = max(before[lane], value)
            before, now = now, before
            key += 1
    largest[:] = before


@compiled
def _powers(keys, start, lanes, logits, largest, total):
    """2**(logit - largest) where the plain products were, and their sum, per query."""
    total[:] = np.float32(0.0)
    for key in range(len(keys)):
        source, target = logits[key], keys[key, start : start + lanes]
        for lane in range(lanes):
            power = exp2(source[lane] - largest[lane])
            total[lane] += power
            target[lane] = fitted(power, target)


@compiled
def softmax(own, others, terms, scale, first, rows, columns, factors):
    """Turn logits into weights, in place; all arrays but `factors` float32, or the bits of bfloat16.

    For each query the weights are the mean, over M prompts, of the softmax over that prompt's half and the own half
    together; so the mean's output is one product with all values.

    Args:
        own: (half_tokens, B) plain products with the keys of the queries' input half.
        others: (M * half_tokens, B) plain products with the keys of M prompt halves.
        terms: ((2 * rows - 1) + (2 * columns - 1), B) each query's products with both distance tables, or (0, B).
        scale: what plain products are multiplied with.
        first: the first query's place on the canvas in tokens; the others follow it.
        rows: rows of the canvas.
        columns: columns of the canvas.
        factors: (B,) float32, written: what each query's weights, or its output, must still be multiplied with.
    """
    half, queries = own.shape
    prompts = others.shape[0] // half
    scale = np.float32(scale) * np.float32(LOG2E)
    logits = np.empty(((1 + prompts) * half, LANES), np.float32)
    of_row = np.zeros((rows, LANES), np.float32)
    of_column = np.zeros((columns, LANES), np.float32)
    largest = np.empty((1 + prompts, LANES), np.float32)
    total = np.empty((1 + prompts, LANES), np.float32)
    for start in range(0, queries, LANES):
        lanes = min(LANES, queries - start)
        if terms.shape[0] > 0:
            _fill_terms(terms, first, start, lanes, of_row, of_column)
        _logits(own, start, lanes, scale, of_row[rows // 2 :], of_column, logits[:half], largest[0])
        for part in range(1, 1 + prompts):
            keys, place = others[(part - 1) * half : part * half], logits[part * half : (part + 1) * half]
            _logits(keys, start, lanes, scale, of_row, of_column, place, largest[part])
        if prompts == 1:  # then the powers need no further share between the halves
            for lane in range(lanes):
                largest[0, lane] = largest[1, lane] = max(largest[0, lane], largest[1, lane])
        _powers(own, start, lanes, logits[:half], largest[0], total[0])
        for part in range(1, 1 + prompts):
            keys, place = others[(part - 1) * half : part * half], logits[part * half : (part + 1) * half]
            _powers(keys, start, lanes, place, largest[part], total[part])
        # From here `total` holds what each half's powers are multiplied with.
        for lane in range(lanes):
            own_weight = np.float32(0.0)
            for part in range(1, 1 + prompts):
                both = max(largest[0, lane], largest[part, lane])
                own_share, share = exp2(largest[0, lane] - both), exp2(largest[part, lane] - both)
                whole = (total[0, lane] * own_share + total[part, lane] * share) * np.float32(prompts)
                own_weight += own_share / whole
                total[part, lane] = share / whole
            total[0, lane] = own_weight
            factors[start + lane] = own_weight if prompts == 1 else np.float32(1.0)
        if prompts > 1:
            for part in range(1 + prompts):
                weight = total[part]
                for key in range(half):
                    whole_row = own[key] if part == 0 else others[(part - 1) * half + key]
                    row = whole_row[start : start + lanes]
                    for lane in range(lanes):
                        row[lane] = fitted(widened(row[lane]) * weight[lane], row)


@compiled
def gather(qkv, starts, key_column, value_column, keys, values):
    """One head's keys and values of several halves, beside each other; numbers of any kind, copied.

    Args:
        qkv: (T, 3 * hidden_size).
        starts: (halves,) the first row of each half.
        key_column: where the head's keys begin among the columns.
        value_column: where its values begin.
        keys: (halves * half_tokens, head_dim), written.
        values: (head_dim, halves * half_tokens), written.
    """
    head_dim = keys.shape[1]
    half = len(keys) // len(starts)
    for number in range(len(starts)):
        for first in range(0, half, _TILE):
            last = min(first + _TILE, half)
            for row in range(first, last):
                source = qkv[starts[number] + row, key_column : key_column + head_dim]
                target = keys[number * half + row]
                for channel in range(head_dim):
                    target[channel] = source[channel]
            tile = qkv[starts[number] + first : starts[number] + last, value_column : value_column + head_dim]
            for channel in range(head_dim):
                target = values[channel, number * half + first : number * half + last]
                for row in range(last - first):
                    target[row] = tile[row, channel]


@compiled
def gather_rows(source, rows, column, target):
    """Some rows of one head, one after the other; numbers of any kind, copied.

    Args:
        source: (T, channels).
        rows: (B,) numbers of rows.
        column: where the head begins among the channels.
        target: (B, head_dim), written.
    """
    head_dim = target.shape[1]
    for number in range(len(rows)):
        start = rows[number]
        row, entries = target[number], source[start, column : column + head_dim]
        for channel in range(head_dim):
            row[channel] = entries[channel]


@compiled
def put_back(outputs, factors, rows, column, target):
    """Outputs times the factors of their queries, each to its place; arrays as those of `softmax`.

    Args:
        outputs: (head_dim, B).
        factors: (B,) float32.
        rows: (B,) each query's row of `target`.
        column: where the head begins among the channels.
        target: (T, channels), written in part.
    """
    head_dim, queries = outputs.shape
    for first in range(0, queries, _TILE):
        for query in range(first, min(first + _TILE, queries)):
            factor = factors[query]
            row = target[rows[query], column : column + head_dim]
            for channel in range(head_dim):
                row[channel] = fitted(widened(outputs[channel, query]) * factor, row)
