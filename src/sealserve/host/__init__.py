"""What a machine offers to enclaves: processor, kernel, devices and services. Probes are separate from judgments."""
