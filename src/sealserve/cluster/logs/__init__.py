"""Logs of the parts of a deployment: select lines, merge them by time, and read the last error of a run."""
