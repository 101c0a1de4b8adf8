"""The runs of the sensitivity study, and the scope of each.

Figures 1 and 2 of the SWAT paper isolate one pass: sparse operands in the forward pass
with a dense backward pass, and vice versa. Its ablations compare SWAT with masked
updates, with active weights that are fixed from some step on, and with thresholds that
are updated less often.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

STUDIES: dict[str, dict[str, Any]] = {
    "dense": {},
    "forward_weights": {"forward": ("weights",), "backward": ()},
    "forward_activations": {"forward": ("activations",), "backward": ()},
    "backward_weights_activations": {"forward": ()},
    "backward_errors": {"forward": (), "backward": ()},
    "swat": {},
    "masked_updates": {"updates": "masked"},
    "freeze": {},
    "period": {},
}
"""Study -> its arguments of `swat_scope`, without the sparsity."""

FIGURES = (
    "forward_weights",
    "forward_activations",
    "backward_weights_activations",
    "backward_errors",
)
ABLATIONS = ("swat", "masked_updates", "freeze", "period")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
      study: its name, a key of `STUDIES`.
      sparsity: sparsity of the operands of the study; 0 for the dense run.
      value: for `freeze`, the step from which the active weights are fixed; for `period`,
        the steps between thresholds; otherwise 0.
      seed: seed of weights and batches.
    """

    study: str
    sparsity: float
    value: int
    seed: int

    def scope_arguments(self, period: int, errors_per: str) -> dict[str, Any] | None:
        """The arguments of `swat_scope`, or None for the dense run.

        Args:
          period: steps between thresholds, unless the study sets it.
          errors_per: the unit over which error gradients are selected.
        """
        if self.study == "dense":
            return None
        asked = {"topk_period": period, **STUDIES[self.study]}
        if self.study == "backward_errors":
            return {**asked, "errors": self.sparsity, "errors_per": errors_per}
        if self.study == "freeze":
            asked["freeze_at"] = self.value
        if self.study == "period":
            asked["topk_period"] = self.value
        return {**asked, "sparsity": self.sparsity}


def runs(
    studies: Sequence[str],
    *,
    sparsities: Sequence[float],
    ablation_sparsities: Sequence[float],
    freeze_at: Sequence[int],
    periods: Sequence[int],
    seeds: Sequence[int],
) -> Iterator[Run]:
    """All runs, ordered by seed, so that the runs of the first seed are a full study.

    Args:
      studies: the studies, keys of `STUDIES`.
      sparsities: the sparsities in the figures.
      ablation_sparsities: the sparsities in the ablations.
      freeze_at: the steps for `freeze`.
      periods: the steps for `period`.
      seeds: the seeds of weights and batches.

    >>> [run.value for run in runs(["period"], sparsities=[], ablation_sparsities=[0.9],
    ...     freeze_at=[], periods=[10, 100], seeds=[0])]
    [10, 100]
    """
    values = {"freeze": freeze_at, "period": periods}
    for seed in seeds:
        for study in studies:
            if study == "dense":
                yield Run(study, 0.0, 0, seed)
                continue
            asked = sparsities if study in FIGURES else ablation_sparsities
            for sparsity in asked:
                for value in values.get(study, [0]):
                    yield Run(study, sparsity, value, seed)
