"""The verifying proxy of a user: clients connect to this machine without TLS, and reach only verified enclaves."""
