"""The warning about what still works, and will not always."""


class DeprecatedKeyWarning(FutureWarning):
    """A file has keys with deprecated names; the text lists the new names."""
