"""Remote administration of the broker: the commands of the owner over HTTPS, with mutual TLS and roles."""
