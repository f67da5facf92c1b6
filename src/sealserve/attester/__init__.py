"""The program inside an enclave with its own keys: attests to a broker, gets the release's key, and starts the server.

The order of the steps is the order of `program`. `docs/reference/attestation-protocol.md` specifies the protocol.
"""
