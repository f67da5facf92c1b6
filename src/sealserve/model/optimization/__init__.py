"""Optimization of a SavedModel for serving: a faster SavedModel with the same interface, and evidence that it agrees.

`optimize.optimize` is the entry. TensorFlow rewrites the model in a separate process (`worker`), with its own passes
(`passes`). The same process runs both models on the same inputs (`trial`), and `agreement` compares the outputs.
"""
