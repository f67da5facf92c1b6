"""The methods that clients can call on a model, independent of the protocol (gRPC or REST)."""
