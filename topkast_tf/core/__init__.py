"""Pure functions of arrays, shapes and steps: what every method is composed of."""
