"""The model server, with TensorFlow Serving's flags and gRPC API, and TensorFlow as its runtime."""


def main() -> int:
    """Run ``sealserve-model-server`` with this process's command line; return its exit status."""
    from sealserve.serving.program import main as program  # noqa: PLC0415  # importing one module loads no server

    return program()
