"""Names of files that commands write and the supervisor reads. This module imports little, see `supervisor`.

The record of processes is in the host's run folder, and the lock is beside the folders of the three machines.
"""

from typing import Final

RECORD: Final = "local.json"
DEPLOYMENT_LOCK: Final = "deployment.lock"
