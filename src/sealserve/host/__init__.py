"""What a machine offers to enclaves: its processor, kernel, devices, services. Probing is apart from judging."""
