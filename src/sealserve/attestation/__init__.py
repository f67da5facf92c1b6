"""Attestation as RATS (RFC 9334) describes it: evidence, its verifier, claims, and the policy that appraises them."""
