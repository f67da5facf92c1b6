"""The warning for deprecated features that still work but will be removed."""


class DeprecatedKeyWarning(FutureWarning):
    """A file uses deprecated keys. The text lists their new names."""
