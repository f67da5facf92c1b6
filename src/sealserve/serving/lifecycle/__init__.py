"""The models, and the versions of each: which are wanted, what is loaded, and in which order they come and go."""
