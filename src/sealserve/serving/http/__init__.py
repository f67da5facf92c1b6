"""HTTP: the REST API in JSON, the metrics page, and the ports that serve them."""
