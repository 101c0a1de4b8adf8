"""The layers constructed in a scope, and whether they are all built."""

import weakref
from typing import Any

from topkast_tf import compat


class ScopeLayers:
    """The layers of a scope, numbered in the order of their construction.

    They are held by weak references: a layer that is discarded is never built.
    """

    def __init__(self) -> None:
        self._layers: dict[int, weakref.ref] = {}
        self.recorded = 0

    def record(self, layer: Any) -> None:
        """Adds a layer whose constructor has returned."""
        self._layers[self.recorded] = weakref.ref(layer)
        self.recorded += 1

    def since(self, number: int) -> list[Any]:
        """The layers recorded from a number on that still exist."""
        made = [ref() for n, ref in self._layers.items() if n >= number]
        return [layer for layer in made if layer is not None]

    def number_of(self, layer: Any) -> int | None:
        """The number of a layer, or None."""
        numbers = [n for n, ref in self._layers.items() if ref() is layer]
        return numbers[0] if numbers else None

    def forget(self, ids: set[int]) -> None:
        """Removes the layers with these ids."""
        self._layers = {
            n: ref for n, ref in self._layers.items() if id(ref()) not in ids
        }

    def set_aside(self, number: int | None) -> None:
        """Stops waiting for the build of a layer that was copied.

        Args:
          number: the layer's number; None changes nothing.
        """
        original = self._layers[number]() if number in self._layers else None
        if original is not None:
            self.forget({id(each) for each in compat.layers_within(original)})

    def are_unbuilt(self) -> bool:
        """Whether any layer is not built yet."""
        layers = [ref() for ref in self._layers.values()]
        return not all(layer.built for layer in layers if layer is not None)
