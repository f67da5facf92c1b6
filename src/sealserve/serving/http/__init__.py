"""HTTP: the REST API in JSON, the page of metrics, and the ports that speak them."""
