"""The flags of the programs: their definitions, checks and defaults."""
