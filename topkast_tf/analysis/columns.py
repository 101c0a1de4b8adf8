"""Tables as text: columns of one width."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """The lines of a table.

    Args:
      rows: its cells, the header too.
      left: the columns that are aligned to the left; the others are to the right.

    >>> aligned([("layer", "zeros"), ("a", "10")])
    ['layer  zeros', 'a         10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
