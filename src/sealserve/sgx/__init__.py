"""Intel SGX evidence: reports, quotes, the vendor's collateral, and their appraisal."""
