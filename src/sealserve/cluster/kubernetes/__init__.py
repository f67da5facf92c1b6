"""A deployment on Kubernetes: its objects, rendered from ``sealserve.toml``, and the files that contain them."""
