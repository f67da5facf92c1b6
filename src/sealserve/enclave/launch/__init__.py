"""Running an enclave of a release on the host: what every runtime needs, and the choice of one."""
