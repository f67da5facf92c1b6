"""What the owner does with a workspace: keys, certificates, releases, enclaves, and what the broker may hand out."""
