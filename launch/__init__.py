"""The launcher: trains a model on real images, dense or sparse, from one command."""
