"""How work that takes different times is shared between tiles or rows."""

from __future__ import annotations

import heapq

import numpy as np


def longest_first(times: np.ndarray, machines: int) -> int:
    """The end of the last job if the longest waiting job goes to the first free machine.

    Args:
      times: cycles of each job.
      machines: tiles or rows, at least 1.

    Equal jobs take ceil(jobs / machines) times one; the order of the jobs is immaterial:

    >>> longest_first(np.array([3, 3, 3]), 2), longest_first(np.array([1, 2, 3]), 2)
    (6, 3)
    """
    if len(times) <= machines:
        return int(times.max(initial=0))
    ordered = np.sort(times)[::-1]
    if ordered[0] == ordered[-1]:
        return int(ordered[0]) * -(-len(times) // machines)
    free = [int(each) for each in reversed(ordered[:machines])]
    heapq.heapify(free)
    for each in ordered[machines:]:
        heapq.heapreplace(free, free[0] + int(each))
    return max(free)


def shared_cycles(times: np.ndarray, tiles: int, rows: int) -> int:
    """Cycles until every group of a product is computed, for one block of columns.

    Without groups, every machine of the accelerator takes jobs; with groups, the jobs of
    a group are done by one tile.

    Args:
      times: cycles of each job, (groups, jobs): sets of rows, or rows if these are free.
      tiles: of the accelerator.
      rows: machines of a tile: 1 if the rows of a tile are synchronised.

    >>> shared_cycles(np.array([[4, 4, 4]]), 2, 1)
    8
    >>> shared_cycles(np.array([[4], [5]]), 1, 1)
    9
    """
    if len(times) == 1:
        return longest_first(times[0], tiles * rows)
    each = np.array([longest_first(group, rows) for group in times])
    return longest_first(each, tiles)
