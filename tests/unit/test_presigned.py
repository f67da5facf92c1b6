"""The tests' pre-signed addresses are what S3 expects."""

from datetime import datetime

from tests.harness.s3 import presign


def test_the_signature_is_that_of_the_documentation() -> None:
    """docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html, "Example": the keys are made up there."""
    address = presign(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        access_key="AKIAIOSFODNN7EXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        now=datetime.fromisoformat("2013-05-24T00:00:00Z"),
        seconds=86400,
        region="us-east-1",
    )
    assert address.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
