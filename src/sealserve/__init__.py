"""Confidential TensorFlow serving: sealed models, attested enclaves, TLS that ends inside them.

The public API is the command line (``sealserve``, ``sealserve-model-server``) and `sealserve.client`. All other modules
are internal and may change in any version.
"""

__version__ = "0.2.0"
