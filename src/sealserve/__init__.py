"""Confidential TensorFlow serving: sealed models, attested enclaves, TLS that ends inside them."""

__version__ = "0.1.0"
