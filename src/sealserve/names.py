"""The names of models and of machines, as every file that sealserve reads may write them."""

from typing import Annotated

from pydantic import StringConstraints

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""One part of a DNS name (a regular expression)."""
DnsName = Annotated[str, StringConstraints(pattern=rf"^{DNS_LABEL}(\.{DNS_LABEL})*$", max_length=253)]
