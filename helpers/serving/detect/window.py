"""A window of exactly so many rows: allocated once, filled in place, never grown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class Window:
    """Holds the next `size` rows. Adding a row costs the same whatever the size.

    Args:
        size: rows until the window is full, at least 1.
        row_shape: the shape of one row.
        dtype: what the rows are stored as.
    """

    def __init__(self, size: int, row_shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        self.rows = np.empty((size, *row_shape), dtype)
        self.filled = 0

    def add(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Take rows (n, *row_shape) in order and yield the window each time that it is full.

        What is yielded is the window itself, valid until the next step of the iteration; take every
        step, or rows are lost. n may be larger than the window: it is then yielded several times.
        """
        taken = 0
        while taken < len(rows):
            count = min(len(rows) - taken, len(self.rows) - self.filled)
            self.rows[self.filled : self.filled + count] = rows[taken : taken + count]
            taken += count
            self.filled += count
            if self.filled == len(self.rows):
                self.filled = 0
                yield self.rows
