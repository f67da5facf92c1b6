"""The targets of a deployment, and the processes of the local target."""
