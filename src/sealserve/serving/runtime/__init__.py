"""TensorFlow underneath, through its C API: loaded models, tensors, and requests that run together."""
