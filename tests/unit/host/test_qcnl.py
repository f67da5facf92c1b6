import pytest

from sealserve.host import qcnl
from sealserve.host.qcnl import Qcnl, QcnlError

AZURE = """{
  // *** ATTENTION : This file is in JSON format so the keys are case sensitive. Don't change them.

  // This is a typical config file when used in Microsoft Azure environment
  "pccs_url": "https://global.acccache.azure.net/sgx/certification/v4/",
  "use_secure_cert": true, /* as it should be */
  "local_pck_url": "http://169.254.169.254/metadata/THIM/sgx/certification/v4/"
}
"""  # intel/SGXDataCenterAttestationPrimitives, QuoteGeneration/qcnl/linux/sgx_default_qcnl_azure.conf, shortened
ALIBABA = """\
# PCCS server address
PCCS_URL=https://sgx-dcap-server-vpc.cn-hangzhou.aliyuncs.com/sgx/certification/v4/
# To accept insecure HTTPS cert, set this option to FALSE
USE_SECURE_CERT=TRUE
"""  # https://www.alibabacloud.com/help/en/ecs/user-guide/build-an-sgx-encrypted-computing-environment


def test_both_forms_are_read() -> None:
    assert qcnl.parse(AZURE) == Qcnl(pccs_url="https://global.acccache.azure.net/sgx/certification/v4/")
    assert qcnl.parse(ALIBABA) == Qcnl(
        pccs_url="https://sgx-dcap-server-vpc.cn-hangzhou.aliyuncs.com/sgx/certification/v4/"
    )
    assert not qcnl.parse(ALIBABA.replace("=TRUE", "=FALSE")).use_secure_cert
    assert not qcnl.parse('{"pccs_url": "http://x/", "use_secure_cert": false}').use_secure_cert


def test_a_comment_mark_inside_a_string_does_not_start_a_comment() -> None:
    assert qcnl.parse('{"pccs_url": "https://a//b/*c*/", "note": "\\"// no"}').pccs_url == "https://a//b/*c*/"


def test_what_is_written_is_read() -> None:
    text = qcnl.render({"pccs_url": "https://pccs.example.com/v4/", "use_secure_cert": True}, comment="One.\nTwo.")
    assert text.startswith("// One.\n// Two.\n{")
    assert qcnl.parse(text).pccs_url == "https://pccs.example.com/v4/"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "as pccs_url, got nothing"),
        ("PCCS_URL=localhost:8081\n", "as pccs_url, got 'localhost:8081'"),
        ('{"pccs_url": 7}', "as pccs_url, got 7"),
        ('{"pccs_url": "file:///etc/passwd"}', "sets no PCCS"),
        ('{"pccs_url": "https://x/", "use_secure_cert": "yes"}', "as use_secure_cert, got 'yes'"),
        ("{", "not valid JSON with comments"),
        ("{" + '"a":[' * 40000, "not valid JSON with comments"),
        ("// nothing\n[]", "expected a JSON object, got list"),
    ],
)
def test_invalid_configurations_are_rejected(text: str, words: str) -> None:
    with pytest.raises(QcnlError, match="sgx_default_qcnl") as caught:
        qcnl.parse(text)
    assert words in caught.value.message
    assert caught.value.code == "host.qcnl"
