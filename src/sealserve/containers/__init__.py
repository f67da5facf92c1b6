"""Container images: how they are built, what is in them, and the Docker engine that builds and runs them."""
