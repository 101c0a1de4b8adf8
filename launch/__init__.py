"""The launcher: trains a model on images or text, dense or sparse, from one command."""
