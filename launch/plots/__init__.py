"""All plots of the project: one file a figure, and what they share in `panels`."""
