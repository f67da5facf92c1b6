"""Traces: spans, the W3C trace context, and their export to an OpenTelemetry collector.

The model server and the client use it. It needs only packages of the base installation.
"""
