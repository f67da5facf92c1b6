"""The broker: it appraises an enclave's evidence, records the decision, and only then releases the release's key."""
