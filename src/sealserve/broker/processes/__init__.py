"""A broker of several processes: a supervisor, which holds no keys, and workers, which are complete brokers."""
