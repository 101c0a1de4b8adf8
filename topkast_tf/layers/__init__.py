"""Keras layers with sparse weights: construction, products, saving, and back to dense."""
