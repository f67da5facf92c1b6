"""Names of files that commands write and the supervisor reads. This module has few imports; see `supervisor`.

The record of processes is in the host's run folder. The lock is next to the folders of the three roles.
"""

from typing import Final

RECORD: Final = "local.json"
DEPLOYMENT_LOCK: Final = "deployment.lock"
