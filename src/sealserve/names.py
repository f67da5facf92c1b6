"""The permitted names of models and machines, in all files that sealserve reads."""

from typing import Annotated

from pydantic import StringConstraints

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""A regular expression for one label of a DNS name."""
DNS_NAME_PATTERN = rf"^{DNS_LABEL}(\.{DNS_LABEL})*$"
DnsName = Annotated[str, StringConstraints(pattern=DNS_NAME_PATTERN, max_length=253)]
OPERATION_NAME_PATTERN = r"^[!-~]{1,255}$"
OperationName = Annotated[str, StringConstraints(pattern=OPERATION_NAME_PATTERN)]
"""The name of a TensorFlow operation."""
MOST_OPERATIONS = 32
"""Maximum number of operations that one model may use although the model lint rejects them."""
