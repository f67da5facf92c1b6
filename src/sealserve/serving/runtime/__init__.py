"""The TensorFlow runtime, through its C API: loaded models, tensors, and batches of requests."""
