"""The models and their versions: which are wanted, which are loaded, and the order of loading and unloading."""
