"""An SGX platform and its vendor in software. The evidence has the genuine formats but provides no protection."""
