"""systemd units for the owner's broker and for local deployments."""
