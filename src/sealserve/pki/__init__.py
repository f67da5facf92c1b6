"""The three certificate authorities, their certificates, and TensorFlow Serving's ``ssl.cfg``."""
