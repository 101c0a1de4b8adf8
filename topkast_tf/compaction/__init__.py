"""Removal of dead units: the graph, what each layer does to units, and the new model."""
