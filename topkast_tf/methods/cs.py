"""Continuous sparsification: a soft mask that hardens, trained with the weights."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.keys import has_nan, magnitude_keys
from topkast_tf.core.schedules import UpdateSchedule
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD, masked
from topkast_tf.core.sparsities import is_number
from topkast_tf.methods.base import (
    ZERO,
    Products,
    Reset,
    Selection,
    Sets,
    TrainedVariable,
)
from topkast_tf.methods.learned import FindsSparsity
from topkast_tf.methods.registry import register

GATE, TEMPERATURE, EARLY = "gate", "temperature", "early"
"""Names of the variables next to a weight: s, beta, and theta of the rewind step."""
_LEAST = -40.0
"""beta s up to which an entry is outside A: its mask, 4e-18, is zero next to any other."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousSparsification(FindsSparsity):
    """Continuous sparsification (Savarese et al. 2020). Dense-to-sparse.

    With a trained gate s for each entry, and a temperature beta that grows in each of K
    rounds of R steps; after the rounds the mask is hard (the ticket)::

        alpha = theta m / sigmoid(s_0)
        m = sigmoid(beta s),   beta = T^(j / (R - 1)) at step j of a round
        m = 1[s > 0]           from step F = K R on: the sets are fixed
        loss += penalty * sum m / sigmoid(s_0)
        s <- min(T s, s_0), beta <- 1                 between two rounds
        theta <- theta as it was at step E, slots <- 0    at step F

    R is ``total_steps // (K + 1)``; the ticket has the rest. While m is soft, A is
    everything but the entries with beta s <= -40: their m, below 5e-18, is taken as zero.
    Gradients reach theta through m, and s through the sigmoid, on A. A larger s_0 gives a
    denser network, a smaller one a sparser; training finds how sparse. Restart the learning
    rate at the beginning of each round and at step F to train as the source does.

    State: s, beta, and with `rewind_to` theta of step E: two or one more weights. Slots: of
    every entry, and of s. The densest moment of a run is its beginning, with no zeros; its
    last 1 / (K + 1) is sparse.

    A `weight_decay` of the optimizer also decays s, which pulls masks to 1/2: the authors'
    does not. ``optimizer.exclude_from_weight_decay(var_names=["gate"])`` leaves s out.

    Attributes:
      total_steps: the length of training, in steps, with the ticket.
      rounds: K, at least 1.
      rewind_to: E, as a fraction of a round in (0, 1), at least 1 step; None goes on with
        theta and the slots as they are.
      initial_gate: s_0, from -20 to 20.
      final_temperature: T, above 0; a mask hardens if it is above 1.
      penalty_coefficient: at least 0.
      sparsity: as in `FindsSparsity`: of the ticket.

    Raises:
      ValueError: for an argument out of range, or rounds of less than 2 steps.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("cs", total_steps=10_000, rounds=1):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `main.py` and `models/layers.py` of the authors' code for CIFAR-10: 3 rounds and
    a ticket of 85 epochs each, E after 2 epochs, T = 200, s_0 = 0, 1e-8, and SGD with
    Nesterov momentum 0.9 at 0.1. Departs from it in that beta grows at each step and not at
    each epoch; in that one optimizer trains theta and s, with one rate and one decay; in
    that sparse weights alone are rewound, and not biases, norms and dense weights; and in
    two mistakes of that code: its temperature is set back before ``s <- min(T s, s_0)``, so
    that T is 1 there, and not as in the paper; and the optimizer of its ticket has no
    parameters, so that the ticket is not trained.
    """

    name: ClassVar[str] = "cs"

    total_steps: int | None = None
    rounds: int = 3
    rewind_to: float | None = 2 / 85
    initial_gate: float = 0.0
    final_temperature: float = 200.0
    penalty_coefficient: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.total_steps
        if type(self.rounds) is not int or self.rounds < 1:
            raise ValueError(
                "`rounds` must be an integer of at least 1. "
                f"Received: rounds={self.rounds!r}"
            )
        if type(steps) is not int or steps < 2 * (self.rounds + 1):
            raise ValueError(
                "Expected `total_steps`, the number of optimizer steps of the training: at "
                "least 2 for each round and for the ticket. Received: "
                f"total_steps={steps!r}, rounds={self.rounds}"
            )
        back = self.rewind_to
        if back is not None and not (is_number(back) and 0 < back < 1):
            raise ValueError(
                "`rewind_to` must be None or a fraction of a round, in (0, 1). "
                f"Received: rewind_to={back!r}"
            )
        for argument, least, most in (
            ("initial_gate", -20, 20),
            ("final_temperature", 1e-6, 1e6),
            ("penalty_coefficient", 0, 1e6),
        ):
            value = getattr(self, argument)
            if not is_number(value) or not least <= value <= most:
                raise ValueError(
                    f"`{argument}` must be a number from {least:g} to {most:g}. "
                    f"Received: {argument}={value!r}"
                )

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.penalty_coefficient > 0

    @property
    def resets(self) -> bool:  # type: ignore[override]
        return self.rewind_to is not None

    @property
    def round_steps(self) -> int:
        """R, the steps of a round."""
        return (self.total_steps or 0) // (self.rounds + 1)

    @property
    def ticket_from(self) -> int:
        """F, the first step with a hard mask."""
        return self.rounds * self.round_steps

    @property
    def rewind_step(self) -> int:
        """E, in steps."""
        return max(1, round((self.rewind_to or 0) * self.round_steps))

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        return UpdateSchedule(every=1, first=1, last=self.ticket_from)

    def trained_variables(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        shape = tuple(view.shape)
        found = {
            GATE: TrainedVariable(shape, float(self.initial_gate)),
            TEMPERATURE: TrainedVariable((), 1.0, trainable=False),
        }
        if self.rewind_to is not None:
            found[EARLY] = TrainedVariable(shape, 0.0, trainable=False)
        return found

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        step = tf.cast(step, tf.int64)
        is_ticket = tf.equal(step, self.ticket_from)
        of_round = step % self.round_steps
        begins = tf.equal(of_round, 0) & ~is_ticket
        exponent = tf.cast(of_round, tf.float32) / (self.round_steps - 1)
        temperature = tf.pow(tf.constant(self.final_temperature, tf.float32), exponent)
        temperature = tf.where(is_ticket, 0.0, temperature)
        made, trained, resets = [], [], []
        for weight in weights:
            theta, before = tf.convert_to_tensor(weight.theta), weight.trained
            gate = before[GATE]
            lowered = tf.minimum(self.final_temperature * gate, self.initial_gate)
            new = {
                GATE: tf.where(begins, lowered, gate),
                TEMPERATURE: tf.cast(temperature, before[TEMPERATURE].dtype),
            }
            if self.rewind_to is not None:
                early = before[EARLY]
                now = tf.cast(theta, early.dtype)
                new[EARLY] = tf.where(tf.equal(step, self.rewind_step), now, early)
                entries = tf.fill(tf.shape(theta), is_ticket)
                rewound = tf.cast(early, theta.dtype)
                resets.append(Reset(entries, rewound, ZERO))
            trained.append(new)
            # What `reselect` takes while the temperature is 0, from the ticket on.
            hard = _code(gate > 0)
            made.append(dataclasses.replace(weight, trained=new, sets=hard))
        found = self.reselect(made, step)
        return found._replace(trained=trained, resets=resets or None)

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """A as the trained variables say; of a ticket, as it is."""
        codes, finite = [], []
        for weight in weights:
            gate, temperature = weight.trained[GATE], weight.trained[TEMPERATURE]
            soft = _code(temperature * gate > _LEAST)
            codes.append(
                soft
                if weight.sets is None
                else tf.where(temperature > 0, soft, weight.sets)
            )
            finite.append(~has_nan(magnitude_keys(weight.theta)))
            finite.append(~has_nan(magnitude_keys(gate)))
        return Sets(codes, tf.reduce_all(tf.stack(finite)))

    def initial(self, weights: Sequence[Selection]) -> Sets:
        return self.reselect(weights, tf.constant(0, tf.int64))

    def _mask(self, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """m / sigmoid(s_0)."""
        temperature = trained[TEMPERATURE]
        soft = tf.sigmoid(temperature * trained[GATE])
        mask = tf.where(temperature > 0, soft, tf.ones_like(soft))
        scale = 1 + math.exp(-self.initial_gate)
        return scale * masked(mask, tf.equal(sets, FORWARD))

    def alpha(
        self, theta: tf.Tensor, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        return theta * tf.cast(self._mask(sets, trained), theta.dtype)

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        if not self.penalty_coefficient:
            return None
        return self.penalty_coefficient * tf.reduce_sum(self._mask(sets, trained))

    def mean_products(self, fwd: float, bwd: float) -> Products:
        # The gradient of theta is zero outside the ticket, too.
        mean = fwd * (1 - self.ticket_from / (self.total_steps or 1))
        return Products(mean, mean, mean)


def _code(inside: tf.Tensor) -> tf.Tensor:
    return BACKWARD_ONLY + tf.cast(inside, tf.uint8)
