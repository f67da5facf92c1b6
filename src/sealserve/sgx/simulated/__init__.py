"""A software SGX platform and its vendor: evidence in the genuine formats, which protects nothing."""
