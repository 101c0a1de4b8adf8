"""What is simulated: layers with masks and activations."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags

from launch.support.errors import UserError
from swat_tf import simulator


@dataclasses.dataclass(frozen=True)
class Subject:
    """Layers with their masks.

    Attributes:
      name: of the model, or of the method of a run.
      title: what it is.
      layers: the layers.
      weights: masks, as of `swat_tf.simulator.simulate`.
      activations: likewise.
      batch: examples of the step.
      resnet50_at: the sparsity, if it is the network of SWAT's published speed-ups with
        as many zeros in weights and activations, uniformly; else None.
      notes: sentences about what the simulation leaves out.
    """

    name: str
    title: str
    layers: Sequence[simulator.Layer]
    weights: Mapping[str, np.ndarray]
    activations: Mapping[str, np.ndarray]
    batch: int
    resnet50_at: float | None = None
    notes: tuple[str, ...] = ()

    def simulated(
        self,
        machine: simulator.Accelerator | simulator.SystolicArray,
        values: flags.FlagValues,
        advanced: Callable[[int, int], None],
    ) -> simulator.SimulationReport:
        """The report of a machine.

        Args:
          machine: the machine.
          values: of `simulate_flags.parse`.
          advanced: called with (done, all) as work goes on.
        """
        return simulator.simulate(
            self.layers,
            machine,
            self.weights,
            self.activations,
            batch=self.batch,
            sample=values.sample,
            seed=values.seed,
            advanced=advanced,
        )


def check_examples(given: int, most: int) -> None:
    """Raises `UserError` if more examples are asked for than a step has."""
    if given > most:
        raise UserError(
            f"Expected --examples of at most {most}, those of the step. Received: {given}"
        )
