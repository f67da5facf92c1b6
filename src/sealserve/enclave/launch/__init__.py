"""Running an enclave of a release on the host: the runtimes, and the code that they share."""
