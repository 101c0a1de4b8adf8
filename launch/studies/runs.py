"""The runs of the sensitivity study: which scope each one is trained in.

Figures 1 and 2 of the SWAT paper isolate one pass: what is sparse in the forward pass
while the backward pass is dense, and the other way round. Its ablations compare SWAT
with masked updates, with active weights that stay the same ones from some step on, and
with thresholds that serve for longer.
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
"""Each study and what it asks of `swat_scope`, beside a sparsity."""

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
      sparsity: of what the study makes sparse; 0 for the dense run.
      value: the step from which `freeze` keeps the active weights, the steps for which a
        threshold serves in `period`; otherwise 0.
      seed: of weights and batches.
    """

    study: str
    sparsity: float
    value: int
    seed: int

    def scope_arguments(self, period: int, errors_per: str) -> dict[str, Any] | None:
        """The arguments of `swat_scope`, or None for the dense run.

        Args:
          period: steps for which a threshold serves, where the study does not say.
          errors_per: over what error gradients are selected.
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
    """All runs, one seed after the other, so that a part of them is a study already.

    Args:
      studies: which ones, keys of `STUDIES`.
      sparsities: of the figures.
      ablation_sparsities: of the ablations.
      freeze_at: steps for `freeze`.
      periods: steps for `period`.
      seeds: of weights and batches.

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
