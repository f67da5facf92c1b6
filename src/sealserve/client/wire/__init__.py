"""Protobuf messages that TensorFlow Serving understands, under a package name of their own."""
