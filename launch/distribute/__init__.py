"""Several devices: their flags, their strategy, and the state of each replica."""
