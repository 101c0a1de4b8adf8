"""Pure functions of arrays, shapes and steps, from which every method is composed."""
