"""What the verbs do, on a workspace: the command line, the demo and the targets call these."""
