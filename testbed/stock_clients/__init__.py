"""Clients of other projects, which the tests run in an environment of their own.

tritonclient requires an older protobuf than sealserve, so the packages cannot share an environment.
"""
