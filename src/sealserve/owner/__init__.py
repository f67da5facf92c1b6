"""The owner's operations on a workspace: keys, certificates, releases, enclaves, and registration with the broker."""
