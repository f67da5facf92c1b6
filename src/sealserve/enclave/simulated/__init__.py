"""A stand-in for Gramine on a machine without SGX. It protects nothing from root on the host."""
