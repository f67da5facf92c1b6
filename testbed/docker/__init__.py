"""A real Docker engine on this machine, for tests, and a base image that needs only the distribution's packages."""
