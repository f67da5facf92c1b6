"""Paths, sizes and names inside the containers of a deployment, which Docker and Kubernetes share."""

from typing import Final

ENCLAVE: Final = "server"
"""The enclave of every replica. Each container has an address of its own, so all have one port and one measurement."""

WORKSPACE_FOLDER: Final = "/workspace"
"""The owner's or the host's part of a workspace, as far as the container needs it."""

SETTINGS_FOLDER: Final = "/etc/sealserve"
"""Settings of the program in the container, read only."""

RUN_FOLDER: Final = "/run/sealserve"
"""What NGINX writes while it runs, in memory."""

SCRATCH_SIZE: Final = 64 * 2**20
"""Bytes of a folder for what a program writes while it runs."""

RELEASE_SLACK: Final = 64 * 2**20
"""Bytes beside the release in a folder that holds one: what the server writes beside the model."""
