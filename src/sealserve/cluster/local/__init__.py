"""The parts of a deployment that run as processes on this machine.

The local target runs every part this way. The Kubernetes target uses the same modules for the owner's services.
"""
