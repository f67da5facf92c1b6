"""What clients may ask of a model, whatever the wire."""
