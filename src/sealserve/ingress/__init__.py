"""The way in: NGINX passes TLS through to the enclaves, by the name that the client asks for."""
