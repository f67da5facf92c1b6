"""The model's way in: fetched, made, converted and described, in the clear and on its owner's machine only."""
