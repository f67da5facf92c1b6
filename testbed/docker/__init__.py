"""A real Docker engine on this machine, for tests, and a base image from the distribution's packages alone."""
