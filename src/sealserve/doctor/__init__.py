"""What `sealserve doctor` finds: what this machine, its cloud and the deployment have, lack, or should change."""
