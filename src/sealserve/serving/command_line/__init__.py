"""The server's command line and configuration files: TensorFlow Serving's flags, and sealserve's additional flags."""
