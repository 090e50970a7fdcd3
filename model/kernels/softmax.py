"""The softmax of one block of attention logits: scale, position terms, softmax and rounding without leaving the cache.

Keys lie along the rows and queries along the columns, so that vector registers fill with queries whatever the width of
the grid.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions have no annotations: numba infers types, for each kind of array anew.

from __future__ import annotations

from typing import Final

import numpy as np

from model.kernels.numbers import LOG2E, compiled, exp2, fitted, inlined, widened

LANES: Final = 64
"""Queries worked on at a time: few enough that the logits of all their keys stay in the second cache."""


@inlined
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


@inlined
def _largest(keys, start, lanes, scale, of_row, of_column, largest):
    """The largest logit of one half's keys, per query."""
    columns = len(of_column)
    largest[:] = np.float32(-3.0e38)
    for key in range(len(keys)):
        source = keys[key, start : start + lanes]
        row_term, column_term = of_row[key // columns], of_column[key % columns]
        for lane in range(lanes):
            value = widened(source[lane]) * scale + (row_term[lane] + column_term[lane])
            largest[lane] = max(largest[lane], value)


@inlined
def _powers(keys, start, lanes, scale, of_row, of_column, largest, total):
    """2**(logit - largest) in place of one half's plain products, and the sum, per query."""
    columns = len(of_column)
    total[:] = np.float32(0.0)
    for key in range(len(keys)):
        row = keys[key, start : start + lanes]
        row_term, column_term = of_row[key // columns], of_column[key % columns]
        for lane in range(lanes):
            power = exp2(widened(row[lane]) * scale + (row_term[lane] + column_term[lane] - largest[lane]))
            total[lane] += power
            row[lane] = fitted(power, row)


@compiled
def softmax(own, others, terms, scale, first, rows, columns, factors):
    """Turn logits into weights, in place; all arrays but `factors` float32, or the bits of bfloat16.

    For each query the weights are the mean, over M prompts, of the softmax over that prompt's half and the own half
    together; so the mean's output is one product with all values. What is computed twice here, the logits, costs
    less than keeping them between the two sweeps.

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
    of_row = np.zeros((rows, LANES), np.float32)
    of_column = np.zeros((columns, LANES), np.float32)
    largest = np.empty((1 + prompts, LANES), np.float32)
    total = np.empty((1 + prompts, LANES), np.float32)
    for start in range(0, queries, LANES):
        lanes = min(LANES, queries - start)
        if terms.shape[0] > 0:
            _fill_terms(terms, first, start, lanes, of_row, of_column)
        _largest(own, start, lanes, scale, of_row[rows // 2 :], of_column, largest[0])
        for part in range(1, 1 + prompts):
            keys = others[(part - 1) * half : part * half]
            _largest(keys, start, lanes, scale, of_row, of_column, largest[part])
        if prompts == 1:  # then the powers need no further share between the halves
            for lane in range(lanes):
                largest[0, lane] = largest[1, lane] = max(largest[0, lane], largest[1, lane])
        _powers(own, start, lanes, scale, of_row[rows // 2 :], of_column, largest[0], total[0])
        for part in range(1, 1 + prompts):
            keys = others[(part - 1) * half : part * half]
            _powers(keys, start, lanes, scale, of_row, of_column, largest[part], total[part])
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
