"""The broker: evidence comes in, is appraised, is written down, and only then does a release's key go out."""
