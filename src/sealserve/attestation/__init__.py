"""Attestation in the terms of RATS (RFC 9334): evidence, its verifier, claims, and the policy that appraises claims."""
