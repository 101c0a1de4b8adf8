"""A callback that writes how the sets move while a model trains.

Churn of A, use of the reservoir, sparsities and loss go to a CSV and to TensorBoard. The
callback's memory is in a file next to them, so that an interrupted run goes on as if it
had not been interrupted.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from topkast_tf.analysis.mask_csv import check_csv, csv_lines, header
from topkast_tf.analysis.mask_history import (
    Measurement,
    Memory,
    OtherFiles,
    Sets,
    forward_bits,
    reservoir_bits,
)
from topkast_tf.analysis.mask_measures import MEASURES, measures_of, over_all
from topkast_tf.variables.lookup import sparse_weights
from topkast_tf.variables.weight import SparseWeight

_TAG_OF_ALL = dict(zip(MEASURES, ("mean", "mean", "all", "all", "sum"), strict=True))


class MaskDynamics(keras.callbacks.Callback):
    r"""Writes how the sets move to a CSV and to TensorBoard.

    At step t, compared with the measurement before it, k = `every` steps ago::

        churn             |A_{t-k} \ A_t| / |A_{t-k}|
        reservoir_used    |C_0 and (A_0 or A_k or A_2k or ... or A_t)| / |C_0|
        forward_sparsity  1 - |A_t| / n          backward_sparsity  |C_t| / n
        exploration_loss  what the weight adds to the loss

    The CSV has a line for each weight (by its path) and one named ``(all)``: the mean
    over the weights of `churn` and `reservoir_used`, the sparsities over all their
    entries together, and the sum of the losses. Fractions are in [0, 1]; a cell is
    empty where there is nothing to divide by, as at the first measurement, and such
    weights are not in the mean. TensorBoard has the same as ``masks/churn/mean``,
    ``masks/churn/<path>`` and so on. Weights that the scope left dense are not in it.

    Time is the optimizer step as the weights count it, not the batch: steps that only
    accumulate gradients do not count; an update that takes the place of a step (RigL's)
    does. A measurement is made before the first step
    (after it, if `fit` is what builds the model) and at the multiples of `every`. Where
    one call from Keras covers several steps (`steps_per_execution`, or a `train_step` of
    one's own) it is made after a call; `since` names the step that it is compared with.
    Between measurements nothing is read or computed. So an entry that comes into A and
    leaves it between two of them is not seen, and `reservoir_used` is a lower bound; it
    is exact if the sets are selected at no other steps, as with ``every=refresh_every``.

    Next to the CSV a file with the suffix ``.sets`` (without a CSV,
    ``mask_dynamics.sets`` in `log_dir`) holds each measurement and, compressed, what
    changed in A. Training that goes on from a checkpoint, however old, goes on with the
    CSV from there: measurements after the checkpoint are made again. (TensorBoard's
    event files are only added to.) A run of another model, or another beginning, is
    refused.

    In memory it holds three bits for each entry of a sparse weight (C_0, the last A,
    ever in A), and a few bytes for each entry of one weight at a time while it measures.

    Under a strategy the sets of the first device are measured; all hold the same. In a
    training loop of one's own: `set_model`, `on_train_begin`, `on_epoch_begin`, and
    `on_train_batch_end` after each batch.

    Args:
      log_dir: folder for TensorBoard events, or None; made if it is missing. Without a
        `csv` it must be a local one.
      csv: path of the CSV, or None; its folder must be there.
      every: k, steps between measurements, at least 1.

    Raises:
      ValueError: for an argument out of range, neither of the places to write to, a
        `csv` in a missing folder or with other columns; and before the first step, if
        nothing in the model is sparse, or the files are those of another run.

    >>> import tempfile
    >>> from topkast_tf import topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.25):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> dynamics = MaskDynamics(csv=folder / "masks.csv", every=2)
    >>> history = model.fit(
    ...     np.ones((12, 4)), np.zeros((12, 2)), 3, verbose=0, callbacks=[dynamics]
    ... )
    >>> for line in (folder / "masks.csv").read_text().splitlines()[:3]:
    ...     print(line)
    step,since,weight,churn,reservoir_used,forward_sparsity,backward_sparsity,...
    0,,sequential/dense/kernel,,0,0.5,0.25,...
    0,,(all),,0,0.5,0.25,...

    Source: Top-KAST, figure 3. Departs from it in the interval, which there is 5,000
    steps, and in seeing A only at the measurements.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike | None = None,
        csv: str | os.PathLike | None = None,
        every: int = 100,
    ):
        super().__init__()
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(
                "`every` must be a number of steps, an integer of at least 1. "
                f"Received: every={every!r}"
            )
        self._every = every
        self._log_dir = None if log_dir is None else os.fspath(log_dir)
        self._csv = None if csv is None else pathlib.Path(csv)
        if self._csv is not None:
            self._memory = Memory(self._csv.with_name(f"{self._csv.name}.sets"))
            check_csv(self._csv, self._memory.path.is_file())
        elif self._log_dir is not None and "://" not in self._log_dir:
            self._memory = Memory(pathlib.Path(self._log_dir) / "mask_dynamics.sets")
        else:
            raise ValueError(
                "Expected a `csv`, or a `log_dir` on this machine, to have somewhere to "
                f"write to. Received: log_dir={log_dir!r}, csv=None"
            )
        self._weights: list[SparseWeight] = []
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets the fit before it, if there was one."""
        self._weights, self._batch = [], -1
        if self._log_dir is not None:
            self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first step: goes on from the files as they were, or begins them."""
        # Not when training begins: there a callback after this one may yet load a
        # checkpoint. And `fit` builds an unbuilt model only in its first step.
        if not self._weights and self.model.built:
            self._start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Measures, if it is time."""
        if not self._weights:
            self._start()
            self._batch = batch
            return
        # A batch is at most one step, so until enough of them have passed there is no
        # need to ask the device for the step. A call may cover several batches.
        self._batches += batch - self._batch if batch > self._batch else batch + 1
        self._batch = batch
        if self._asked + self._batches >= self._due:
            step = self._read_step()
            if step >= self._due:
                self._measure(step)

    def on_train_end(self, logs: Any = None) -> None:
        """Closes TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _start(self) -> None:
        weights = [weight for weight in sparse_weights(self.model) if not weight.exempt]
        if not weights:
            raise ValueError(
                "Expected a model that was built in a sparsity scope. Received: "
                f"{self.model!r}, in which nothing is sparse"
            )
        self._weights = weights
        step = self._read_step()
        past = self._memory.load(step)
        if past is None:
            self._begin(step)
        else:
            self._resume(step, *past)
        if step >= self._due:
            self._measure(step)

    def _read_step(self) -> int:
        self._asked = max(weight.calls for weight in self._weights)
        self._batches = 0
        return self._asked

    def _begin(self, step: int) -> None:
        if self._csv is not None and self._csv.exists():
            with open(self._csv, encoding="utf-8", errors="replace") as file:
                if len(list(file)) > 1:
                    raise OtherFiles(
                        f"Expected {self._memory.path.name} beside the CSV to go on "
                        f"with it, or a new `csv`. Received: csv={str(self._csv)!r}"
                    )
        self._sets = Sets.of([reservoir_bits(w.codes()) for w in self._weights])
        self._since: int | None = None
        self._due = step  # at once
        self._memory.begin(self._identity(), self._sets)
        self._rewrite_csv([])

    def _resume(
        self, step: int, identity: list, sets: Sets, past: list[Measurement]
    ) -> None:
        place = "`log_dir`" if self._csv is None else "`csv`"
        if identity != self._identity():
            raise OtherFiles(
                f"Expected the model of {self._memory.path}, or another {place}. "
                f"Received: a model with the sparse weights {self._identity()[:4]}, "
                f"and there {identity[:4]}"
            )
        codes = (weight.codes() for weight in self._weights)
        if not past or past[-1].step == step and not sets.equal(codes):
            raise OtherFiles(
                f"Expected the run of {self._memory.path}, or another {place} for a new "
                f"run. Received: a model that at step {step} has other sets"
            )
        self._sets, self._since = sets, past[-1].step
        self._due = self._next_due(self._since)
        self._memory.forget_after(len(past))
        self._rewrite_csv(past)

    def _identity(self) -> list:
        return [[weight.path, list(weight.shape)] for weight in self._weights]

    def _paths(self) -> list[str]:
        return [weight.path for weight in self._weights]

    def _next_due(self, step: int) -> int:
        return (step // self._every + 1) * self._every

    def _measure(self, step: int) -> None:
        rows, changes = [], []
        for index, weight in enumerate(self._weights):
            codes = weight.codes()
            before = self._sets.forward[index]
            changes.append(before ^ forward_bits(codes))
            self._sets.change(index, changes[-1])
            bits = (before, self._sets.reservoir[index], self._sets.ever[index])
            rows.append(measures_of(weight, codes, *bits))
        if self._since is None:
            rows = [(math.nan, *row[1:]) for row in rows]
        sizes = [math.prod(weight.shape) for weight in self._weights]
        values = np.array([*rows, over_all(np.array(rows), sizes)])
        measurement = Measurement(step, self._since, values, np.concatenate(changes))
        # The CSV can be made again from the memory, but not the other way round.
        self._memory.add(measurement)
        if self._csv is not None:
            with open(self._csv, "a", encoding="utf-8", newline="") as file:
                file.write(csv_lines(self._paths(), [measurement]))
        self._write_summaries(measurement)
        self._since, self._due = step, self._next_due(step)

    def _rewrite_csv(self, past: Sequence[Measurement]) -> None:
        if self._csv is not None:
            part = self._csv.with_name(f".part-{self._csv.name}")
            with open(part, "w", encoding="utf-8", newline="") as file:
                file.write(header() + csv_lines(self._paths(), past))
            os.replace(part, self._csv)

    def _write_summaries(self, measurement: Measurement) -> None:
        if self._writer is None:
            return
        *rows, over_all = measurement.values
        with self._writer.as_default(measurement.step):
            for i, name in enumerate(MEASURES):
                scalars = {_TAG_OF_ALL[name]: over_all[i]}
                for weight, row in zip(self._weights, rows, strict=True):
                    scalars[weight.path] = row[i]
                for tag, value in scalars.items():
                    if not math.isnan(value):
                        tf.summary.scalar(f"masks/{name}/{tag}", value)
        self._writer.flush()
