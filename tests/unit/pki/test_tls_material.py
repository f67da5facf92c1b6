"""Which keys and certificates TLS supports. `unit/serving/test_tls_on_every_port.py` tests them on real ports."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.certificates import Signer, key_text, make_key, text
from tests.harness.errors import raises

from sealserve.errors import SealserveError
from sealserve.pki.certificate import CertificateNotYetValidError, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.tls_material import (
    check_chain,
    check_issuers,
    check_peer,
    check_tls_key,
    ordered_authorities,
    ordered_chain,
)
from sealserve.secret import SecretBytes

NOW = datetime.now(UTC)
EXPIRED, FUTURE, LATER = (-30.0, -1.0), (1.0, 30.0), (-1.0, 60.0)
KEY = make_key("P-256")
ROOT, MIDDLE, OTHER = Signer.make("root"), Signer.make("middle"), Signer.make("other")
LEAF = ROOT.leaf(KEY)

# Made by `openssl x509 -req -sha1`: cryptography does not sign with SHA-1.
SHA1 = b"""-----BEGIN CERTIFICATE-----
MIIB3TCBxgIUVat2vk8BxHpgwt/u0f5jkMwsAlcwDQYJKoZIhvcNAQEFBQAwETEP
MA0GA1UEAwwGaXNzdWVyMCAXDTI2MTEyODE3Mjc0NloYDzIwNTQwNDE0MTcyNzQ2
WjAPMQ0wCwYDVQQDDARsZWFmMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMeDZ
/rXOnZbe/dWVLE5lZ1eD2SA7uJzjLABeIpgL6rSP56QJw6Dig+udFehyzuHop870
9c22pjZcusoZZZ/6qTANBgkqhkiG9w0BAQUFAAOCAQEAwi06MvToRFNP8K0YhlJa
NbNTCDboWyg5UH//hNwlytv4PpqAT59NFZvRqnCDSeqhWt/UocjoPrhRwHE8/vmN
UvXs8Y4jIcMGCm5G4mNMFfdrMil56nSYYoor/IH4R2cTnNKwWHgvgtm9zIWuw/Kh
9ixN/JLmd4kW0t9ugeKhrFWadh6TtJEESWsT/x3cQSxCaQXR8ThD7/asATZMaBo8
MaG0cV4NBIWpejmdQ3C/lJA6AWepysrLTJXBS3ObwIg+UKt+rW5Sv6J0339sxMJ9
wu2ywoy5zOV1Q5Nz1J2JmyG5E1+cLZovUQI/KBKqcHQYa9dYeT7HzYc68YT72FU1
7g==
-----END CERTIFICATE-----
"""


def test_the_first_key_of_the_text_is_the_one_that_counts() -> None:
    other = key_text(make_key("P-256"))
    check_tls_key(SecretBytes(key_text(KEY) + other), text(LEAF), source="x")
    with pytest.raises(SealserveError) as caught:
        check_tls_key(SecretBytes(other + key_text(KEY)), text(LEAF), source="x")
    assert caught.value.code == "certificate.key-mismatch"


@given(st.binary(max_size=20), st.sampled_from([b"", b"  ", b"\xef\xbb\xbf", b"\xff\xfe", b"x"]), st.booleans())
def test_a_key_is_accepted_only_where_a_line_begins_with_it(before: bytes, hidden: bytes, new_line: bool) -> None:
    content = before + (b"\n" if new_line else b"") + hidden + key_text(KEY)
    begins = content.startswith(b"-----BEGIN") or b"\n-----BEGIN" in content
    if begins:
        check_tls_key(SecretBytes(content), text(LEAF), source="x")
        return
    with raises(
        PkiCode.CERTIFICATE_KEY_UNREADABLE, match="expected a line that begins with -----BEGIN PRIVATE KEY-----"
    ):
        check_tls_key(SecretBytes(content), text(LEAF), source="x")


def test_a_chain_needs_its_first_certificate_and_an_issuer_of_it() -> None:
    leaf, middle = MIDDLE.leaf(KEY), MIDDLE.certificate(ROOT)
    former, coming = MIDDLE.certificate(ROOT, days=EXPIRED), MIDDLE.certificate(ROOT, days=FUTURE)
    assert check_chain(text(leaf), NOW, source="x") == ()
    assert check_chain(text(leaf, middle, ROOT.certificate()), NOW, source="x") == ()
    (outside,) = check_chain(text(leaf, former, middle), NOW, source="x")
    assert outside.startswith("CN=middle is valid from ")
    assert len(check_chain(text(leaf, middle, ROOT.certificate(OTHER, days=EXPIRED)), NOW, source="x")) == 1
    assert (
        len(check_chain(text(LEAF, ROOT.certificate(days=EXPIRED), OTHER.certificate(days=FUTURE)), NOW, source="x"))
        == 2
    )
    with raises(PkiCode.CERTIFICATE_EXPIRED, match=r"the issuer in x \(CN=middle\) expired"):
        check_chain(text(leaf, former), NOW, source="x")
    with pytest.raises(CertificateNotYetValidError, match="the issuer in x"):
        check_chain(text(leaf, coming), NOW, source="x")
    with raises(PkiCode.CERTIFICATE_EXPIRED, match=r"x \(CN=leaf\) expired"):
        check_chain(text(leaf, middle), NOW + timedelta(days=40), source="x")


def test_a_slow_clock_takes_a_chain_that_begins_within_five_minutes() -> None:
    minutes = 1 / (24 * 60)
    leaf, now = MIDDLE.leaf(KEY), datetime.now(UTC)  # the dates below are relative to this moment
    assert check_chain(text(leaf, MIDDLE.certificate(ROOT, days=(4 * minutes, 30.0))), now, source="x") == ()
    with pytest.raises(CertificateNotYetValidError, match="the issuer in x"):
        check_chain(text(leaf, MIDDLE.certificate(ROOT, days=(6 * minutes, 30.0))), now, source="x")


def test_an_expired_certificate_with_the_issuers_name_and_another_key_does_not_count() -> None:
    leaf, namesake = MIDDLE.leaf(KEY), Signer.make("middle").certificate(ROOT, days=EXPIRED)
    assert len(check_chain(text(leaf, namesake), NOW, source="x")) == 1


def test_of_several_certificates_for_one_authority_the_valid_and_longest_lived_one_goes_first() -> None:
    former, middle, later, coming = (
        MIDDLE.certificate(ROOT, days=days) for days in (EXPIRED, (-1.0, 30.0), LATER, (1.0, 90.0))
    )
    leaf, root = MIDDLE.leaf(KEY), ROOT.certificate()
    assert ordered_chain(text(leaf, root, former, coming, middle, later), NOW) == text(
        leaf, root, later, middle, coming, former
    )
    assert ordered_authorities(b"text\n" + text(former, root, middle), NOW) == text(middle, former, root)


def test_certificates_of_unsupported_kinds_are_named() -> None:
    with raises(
        PkiCode.CERTIFICATE_UNSUPPORTED,
        match=r"custom_ca \(CN=k1\) has a key of the type secp256k1, which not every TLS library "
        r"supports: expected P-256 \(secp256r1\), P-384 \(secp384r1\), or RSA of 2048 to 8192 bits",
    ) as caught:
        check_issuers([Signer.make("k1", "secp256k1").certificate()], source="custom_ca")
    assert (caught.value.code, caught.value.exit_status) == ("certificate.unsupported", 2)


def test_a_client_that_one_library_would_not_accept_is_rejected() -> None:
    k1 = Signer.make("k1", "secp256k1")
    check_peer(LEAF, [ROOT.certificate(), k1.certificate()])  # a certificate outside the path is ignored
    with raises(
        PkiCode.CERTIFICATE_UNSUPPORTED,
        match=r"The client certificate has a key of the type secp521r1: expected P-256 \(secp256r1\), "
        r"P-384 \(secp384r1\), or RSA of 2048 to 8192 bits",
    ):
        check_peer(ROOT.leaf(make_key("P-521")), [])
    with raises(
        PkiCode.CERTIFICATE_UNSUPPORTED,
        match=r"The client's certificate chain \(CN=k1\) has a key of the type secp256k1, which not "
        r"every TLS library supports: expected P-256 \(secp256r1\), P-384 \(secp384r1\), or RSA "
        r"of 2048 to 8192 bits",
    ):
        check_peer(MIDDLE.leaf(KEY), [k1.certificate(ROOT), MIDDLE.certificate(k1)])
    with raises(PkiCode.CERTIFICATE_UNSUPPORTED, match="signed with a weak hash"):
        check_peer(x509.load_pem_x509_certificate(SHA1), [])
    ring = [k1.certificate(MIDDLE), MIDDLE.certificate(k1)] * 50  # two certificates that signed each other
    with raises(PkiCode.CERTIFICATE_UNSUPPORTED, match=r"secp256k1"):
        check_peer(MIDDLE.leaf(KEY), ring)
    check_peer(LEAF, ring)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    agreement = x509.KeyUsage(**{**usage, "key_agreement": True})
    with raises(
        PkiCode.CERTIFICATE_UNSUPPORTED,
        match=r"The client certificate does not permit digital signatures \(key usage\)",
    ):
        check_peer(ROOT.leaf(KEY, usage=agreement), [])


def test_a_certificate_with_a_name_that_cannot_be_decoded_is_unreadable() -> None:
    der = bytearray(LEAF.public_bytes(Encoding.DER))
    at = der.rindex(b"leaf")
    der[at - 2] = 0x0C  # UTF8String
    der[at : at + 4] = b"\xff\xfe\xfd\xfc"
    with pytest.raises(SealserveError) as caught:
        parse_chain(x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM))
    assert caught.value.code == "certificate.unreadable"
