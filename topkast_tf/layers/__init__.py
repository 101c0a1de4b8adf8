"""Keras layers with sparse weights: construction, products, saving, conversion to dense."""
