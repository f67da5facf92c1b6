"""A deployment on Kubernetes: its objects, rendered from ``sealserve.toml``, and the files that they are written to."""
