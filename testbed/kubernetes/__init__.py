"""A real Kubernetes cluster on one machine, for tests and trials, built only from Go modules and Debian packages."""
