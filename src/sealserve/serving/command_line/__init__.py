"""What the command line and its files ask of the server: TensorFlow Serving's flags, and our own."""
