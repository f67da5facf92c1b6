"""Bytes in and out: addresses, TLS, gRPC, with limits on what peers can hold."""
