"""Network input and output: addresses, TLS and gRPC, with limits on the resources that clients can use."""
