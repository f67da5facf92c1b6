"""Paths, sizes and names inside the containers of a deployment, common to Docker and Kubernetes."""

from typing import Final

ENCLAVE: Final = "server"
"""The enclave of every replica. Each container has its own IP address, so all share one port and one measurement."""

WORKSPACE_FOLDER: Final = "/workspace"
"""The owner's or the host's part of a workspace, limited to the files that the container needs."""

SETTINGS_FOLDER: Final = "/etc/sealserve"
"""Read-only settings of the program in the container."""

RUN_FOLDER: Final = "/run/sealserve"
"""Runtime files of NGINX, in memory."""

SCRATCH_SIZE: Final = 64 * 2**20
"""Size in bytes of a folder for runtime files of a program."""

RELEASE_SLACK: Final = 64 * 2**20
"""Extra bytes in a folder that holds a release, for files that the server writes next to the model."""
