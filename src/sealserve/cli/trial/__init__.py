"""``sealserve model test``: run each signature of a model once, with the embedded server's code, before sealing it."""
