"""What a user runs: connect to the service, ask for predictions, measure load. It needs no TensorFlow."""
