"""Splits a run into stretches that one call of `fit` can train."""

from typing import NamedTuple


class Stretch(NamedTuple):
    """Rounds of equal length, trained by one call of `fit`; Keras calls them epochs.

    Args:
      first_step: step of the first batch.
      round_steps: batches per round.
      rounds: number of rounds.
    """

    first_step: int
    round_steps: int
    rounds: int


def stretches(done: int, total: int, per_round: int) -> list[Stretch]:
    """Splits the remaining steps into stretches.

    They are the rest of an interrupted round, the full rounds, and a last round that the
    end of the run cuts short.

    Args:
      done: steps already taken.
      total: steps of the whole run.
      per_round: steps from one evaluation to the next.

    >>> stretches(done=5, total=13, per_round=4)
    [Stretch(first_step=5, round_steps=3, rounds=1), \
Stretch(first_step=8, round_steps=4, rounds=1), \
Stretch(first_step=12, round_steps=1, rounds=1)]
    """
    found = []
    while done < total:
        into = done % per_round
        length = min(per_round - into, total - done)
        rounds = (total - done) // per_round if length == per_round else 1
        found.append(Stretch(done, length, rounds))
        done += length * rounds
    return found
