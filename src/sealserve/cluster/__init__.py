"""Where a deployment runs: the targets, and the processes of the local one."""
