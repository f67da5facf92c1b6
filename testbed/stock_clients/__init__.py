"""Clients of other projects, which the tests run in a separate environment.

tritonclient requires an older protobuf than sealserve, so the packages cannot share an environment.
"""
