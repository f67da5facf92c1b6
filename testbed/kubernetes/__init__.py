"""A real Kubernetes on one machine, for tests and trials, from Go modules and Debian packages alone."""
