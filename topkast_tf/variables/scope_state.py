"""Which weights a scope makes sparse, how sparse, and when that is known.

A scope meets parameters one by one, as they are made, and decides on each; how the
sparsity is spread over them can depend on all of them, so the plan is made anew when
one has joined.
"""

import contextlib
import itertools
import math
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from topkast_tf import compat
from topkast_tf.core.blocks import MatrixView
from topkast_tf.methods import Method
from topkast_tf.variables import hooks, packing, serving
from topkast_tf.variables.budget import Budget, shared_budget
from topkast_tf.variables.decisions import (
    FIRST,
    LAST,
    Decision,
    Rules,
    SavedDecisions,
)
from topkast_tf.variables.of_run import of_loaded
from topkast_tf.variables.placement import Placement, seed_of
from topkast_tf.variables.planning import plan_weights
from topkast_tf.variables.scope_checks import check_distribution, check_power
from topkast_tf.variables.scope_config import config_of, parts_of
from topkast_tf.variables.scope_layers import ScopeLayers
from topkast_tf.variables.weight import SparseWeight

SCOPE = "_topkast_scope"
"""The attribute by which layers, and variables that were decided on, know their scope."""


class SparsityScope:
    """What the weights made in one `topkast_scope` have in common.

    Attributes:
      method: how their sets are selected (`topkast_tf.methods`).
      placement: which weights are sparsified.
      weights: the sparsified weights so far, in the order in which they were made.
      left_dense: path -> why, of the matrices that were left dense.
      decisions: on each parameter that was met, in that order.
      saved: decisions from a file that are yet to be taken, or None.
      layers: the layers that were constructed in it.
      kernels: what computes the products of its layers (`topkast_tf.kernels.choice`);
        of the run, not of the model: it is not saved.
      storage: what the optimizer trains (`topkast_tf.variables.packing`); also of the run.
      power: the weights are powers of theta (`topkast_tf.core.powerprop`); 1 is none.
    """

    def __init__(
        self,
        method: Method,
        placement: Placement,
        uid: str | None = None,
        decisions: Sequence[Mapping] | None = None,
        restored: bool = False,
        kernels: str = "auto",
        storage: packing.Storage = packing.DENSE,
        power: float = 1.0,
    ):
        check_distribution(method, placement)
        check_power(method, power)
        if storage.is_packed:
            packing.check_scope(method, placement)
        self.kernels = kernels
        self.power = power
        self.storage = storage
        self.method = method
        self.placement = placement
        self.uid = uid or uuid.uuid4().hex
        self.weights: list[SparseWeight] = []
        self.left_dense: dict[str, str] = {}
        self._restored = restored
        self.saved = SavedDecisions(decisions) if decisions is not None else None
        self.is_open = False
        self.has_inner = False
        self.decisions: list[Decision] = []
        self._places = itertools.count()
        self._rules = Rules(placement)
        self.layers = ScopeLayers()
        self._restored_for: weakref.ref | None = None
        self._replaces = False
        self._planned = True
        self._finished = False
        self._size = serving.shared_size(self.uid)
        self.budget: Budget | None = None
        if placement.distribution == "global" or method.budget == "global":
            self._budget_key = f"{self.uid} restored" if restored else self.uid
            self.budget = shared_budget(self._budget_key)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """While it is open, more may be made in it than has been built."""
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    # Joining.

    @contextlib.contextmanager
    def construction(self, layer: Any) -> Iterator[None]:
        """Around the constructor of a layer, which joins the scope if it succeeds.

        The layer may build later. If the constructor raises, all that it has made leaves
        the scope again: such layers are never built, however long a traceback keeps them.
        """
        before = self.layers.recorded
        try:
            yield
        except BaseException:
            self._forget([layer, *self.layers.since(before)])
            raise
        self.layers.record(layer)
        self._finished = False
        _unfinished.add(self)

    def _forget(self, layers: Sequence[Any]) -> None:
        ids = {id(layer) for layer in layers}
        gone = [d for d in self.decisions if d.owner and id(d.owner()) in ids]
        weights = {id(d.weight) for d in gone if d.weight}
        self.layers.forget(ids)
        self._size.entries -= sum(math.prod(d.shape) for d in gone if d.weight)
        self.decisions = [d for d in self.decisions if d not in gone]
        self.weights = [w for w in self.weights if id(w) not in weights]
        if self.budget is not None:
            self.budget.weights = [
                w for w in self.budget.weights if id(w) not in weights
            ]
        for decision in gone:
            self.left_dense.pop(decision.path, None)
            self._rules.refused.pop(decision.path, None)

    def restored_for(self, layer: Any) -> None:
        """Remembers the layer whose configuration this scope was restored from."""
        self._restored_for = weakref.ref(layer)

    def was_restored_for(self, layer: Any) -> bool:
        """Whether it was restored from the configuration of this layer."""
        return self._restored_for is not None and self._restored_for() is layer

    def set_aside(self, number: int | None) -> None:
        """Stops waiting for a layer to be built, of which a copy was made.

        Args:
          number: as in the layer's configuration; None changes nothing.
        """
        self.layers.set_aside(number)

    def consider(
        self,
        variable: Any,
        path: str,
        view: MatrixView,
        *,
        not_kernel: str | None,
        within_keras: bool,
        refused: str | None = None,
        counts_when_used: bool = False,
        owner: Any = None,
    ) -> SparseWeight | None:
        """Decides whether a parameter is sparsified.

        Args:
          variable: the parameter.
          path: its path.
          view: its 2-D view.
          not_kernel: why it is not a matmul or convolution kernel, or None if it is.
          within_keras: whether it belongs to a Keras layer.
          refused: why the method cannot sparsify it, if it cannot.
          counts_when_used: whether it takes its place among the first and the last when
            it is used (`note_use`), and not when it is made.
          owner: the layer that has made it, if any.

        Returns:
          Its sparse weight, still without variables, or None if it stays dense.
        """
        saved = self.saved.take(path, view.shape) if self.saved else None
        refused = refused or self.method.why_dense(view)
        why = (
            saved["dense"]
            if saved
            else self._rules.why_dense(
                path,
                view.shape,
                not_kernel=not_kernel,
                refused=refused,
                may_be_first=not counts_when_used and not self._has_first(),
            )
        )
        weight = None
        if why is None:
            weight = self._join(path, view, within_keras)
            if not counts_when_used:
                weight.place = next(self._places)
            if saved:
                weight.plan(saved["fwd"], saved["bwd"], saved["exempt"])
        else:
            self.left_dense[path] = why
        # Not by `setattr`: a variable of a strategy hands it on to its parts.
        vars(variable)[SCOPE] = self
        by = None if owner is None else weakref.ref(owner)
        self.decisions.append(Decision(variable, path, view.shape, weight, why, by))
        return weight

    def _has_first(self) -> bool:
        return any(
            (d.weight and d.weight.place is not None) or d.dense == FIRST
            for d in self.decisions
        )

    def note_use(self, weight: SparseWeight) -> None:
        """Gives a weight that counts when it is used its place behind those in use.

        The output projection of a language model is made with its input embedding, and
        used after all else.

        Args:
          weight: a weight of this scope that is about to be multiplied by.
        """
        if weight.place is None:
            weight.place = next(self._places)
            self._planned = False

    def _join(self, path: str, view: MatrixView, within_keras: bool) -> SparseWeight:
        taken = {weight.path for weight in self.weights}
        unique, number = path, 1
        while unique in taken:
            number += 1
            unique = f"{path}#{number}"
        weight = SparseWeight(
            path=unique,
            view=view,
            method=self.method,
            # By its place and not by its path, which has Keras's running numbers.
            seed=seed_of(str(len(self.weights)), self.placement.seed),
            within_keras=within_keras,
            ensure_planned=self.ensure_planned,
            wants_native=self.wants_native,
            storage=self.storage,
            power=self.power,
        )
        self._size.entries += math.prod(view.shape)
        self.weights.append(weight)
        self._planned = False
        if self.budget is not None:
            self._join_budget(weight)
            weight.budget = self.budget
        return weight

    def _join_budget(self, weight: SparseWeight) -> None:
        members = self.budget.weights
        same = [i for i, member in enumerate(members) if member.path == weight.path]
        if same and self._replaces:
            members[same[0]] = weight
            return
        if same:
            # The same model once more, from a file: a budget of its own.
            self.budget = shared_budget(self._budget_key, renew=True)
        self.budget.weights.append(weight)

    def wants_native(self, same_bits: bool) -> bool:
        """Whether native operations serve its weights, where they can be had.

        Args:
          same_bits: as for `serving.serves`.
        """
        if same_bits and self._size.has_native_layer:
            return True
        return serving.wants_native(self.kernels, self._size.entries)

    def has_native_layer(self) -> None:
        """The product of one of its layers is computed natively."""
        self._size.has_native_layer = True

    def reasons_left_dense(self) -> list[tuple[Any, str]]:
        """Each parameter that stays dense, and why."""
        self.ensure_planned()
        return [
            (made.variable, made.dense or LAST)
            for made in self.decisions
            if made.dense or (made.weight and made.weight.exempt)
        ]

    # Planning.

    def ensure_planned(self) -> None:
        """Spreads the sparsity over the weights that have joined, if any are new."""
        if not self._planned:
            self._planned = True
            try:
                self._plan()
            except BaseException:
                self._planned = False
                raise

    def _plan(self) -> None:
        if self.saved is None and self.weights:
            plan_weights(self.weights, self.method, self.placement, self._finished)
        if self.budget is not None and self.budget.weights:
            members = [w for w in self.budget.weights if not w.exempt]
            if all(m.is_ready and m.step == 0 and not m.is_frozen for m in members):
                members[0].initialize()

    # Finishing.

    def finish(self) -> None:
        """Once everything is built: the checks that need to know all weights."""
        if self._finished or self.is_open or self.layers.are_unbuilt():
            return
        self._finished = True
        _unfinished.discard(self)
        if self._restored:
            return  # the checks were made when the model was made
        if not self.weights and self.has_inner and not self.left_dense:
            return
        if not self.weights:
            raise ValueError(
                "Expected something to sparsify: a weight that is a matmul or "
                "convolution kernel. Received: a scope with "
                + (
                    "only these, left dense: "
                    + ", ".join(f"{p} ({why})" for p, why in self.left_dense.items())
                    if self.left_dense
                    else "none. Is the model built inside the `with` block?"
                )
            )
        self._rules.check_all_used([w.path for w in self.weights] + [*self.left_dense])
        self._planned = False
        self.ensure_planned()
        if all(weight.exempt for weight in self.weights):
            raise ValueError(
                "Expected something to sparsify beside the last weight, which `exempt` "
                f"names. Received: {self.weights[0].path} alone"
            )
        self.method.check([weight.blocks for weight in self.weights])
        if self._rules.refused:
            logging.warning(
                "%s leaves dense: %s", self.method.name, self._rules.refused
            )
        logging.info(
            "%s: %d weights sparsified, left dense: %s",
            self.method.name,
            len(self.weights),
            self.left_dense or "no matrix",
        )

    # Saving.

    def get_config(self, layer: Any) -> dict:
        """The configuration from which a layer makes this scope again."""
        return config_of(self, layer)

    @classmethod
    def from_config(cls, config: Mapping) -> "SparsityScope":
        """The inverse of `get_config`, which does not hold what is of the run."""
        method, placement = parts_of(config)
        power = config.get("power", 1.0)  # not in files of version 0.1
        of_run = of_loaded()
        scope = cls(
            method,
            placement,
            config["uid"],
            config["weights"],
            restored=True,
            kernels=of_run.kernels,
            storage=of_run.storage,
            power=power,
        )
        scope._replaces = "replaces" in config
        return scope


_unfinished: "weakref.WeakSet[SparsityScope]" = weakref.WeakSet()


@tf.autograph.experimental.do_not_convert  # a `tf.function` may call the model first
def finish_scopes(layer: Any) -> None:
    """Finishes the scopes of a layer, and of those within, that are all built by now.

    Only these: what is wrong with a scope is no concern of other models.
    """
    if not _unfinished:
        return
    within = [getattr(each, SCOPE, None) for each in compat.layers_within(layer)]
    for scope in {id(scope): scope for scope in within if scope}.values():
        scope.finish()


hooks.after_outermost_call.append(finish_scopes)
