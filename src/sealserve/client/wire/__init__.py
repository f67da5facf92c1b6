"""Protobuf messages of TensorFlow Serving's API, generated with sealserve's own package name."""
