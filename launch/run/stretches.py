"""A run cut into pieces that one call of `fit` can train."""

from typing import NamedTuple


class Stretch(NamedTuple):
    """Rounds of equal length that one call of `fit` trains, each an epoch to Keras.

    Args:
      first_step: step of the first batch.
      round_steps: batches in each of the rounds.
      rounds: how many.
    """

    first_step: int
    round_steps: int
    rounds: int


def stretches(done: int, total: int, per_round: int) -> list[Stretch]:
    """Cuts the steps that are left into stretches.

    Whole rounds, before them the rest of a round that was interrupted, after them the
    round that the end of the run cuts short.

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
