"""The rules of an appraisal policy that apply only to SGX: the table ``[sgx]`` of a policy file.

The rules read the facts that `VerifiedQuote.facts` returns. The audit log records the same facts. So a trial of a
policy with the audit log runs the same checks as the broker.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sealserve.attestation.claims import Fact
from sealserve.errors import SealserveError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.reference_values import ProductReferenceValues
from sealserve.sgx.report import MrSigner

TABLE: Final = "sgx"
"""The name of the table in a policy file."""
_FMSPC: Final = re.compile(r"[0-9A-F]{12}")
_UINT16: Final = 0xFFFF
_UINT32: Final = 0xFFFFFFFF


def _fmspcs(values: list[str]) -> list[str]:
    raised = [value.upper() for value in values]
    for value in raised:
        if not _FMSPC.fullmatch(value):
            raise ValueError(f"expected FMSPCs of 12 hexadecimal digits, got {value!r:.80}")
        if raised.count(value) > 1:
            raise ValueError(f"{value!r} is listed twice")
    return sorted(raised)


def _not_empty(values: list[str]) -> list[str]:
    if not values:
        raise ValueError("an empty list would refuse every processor; remove the key to accept any processor")
    return values


def _digits(count: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(rf"[0-9A-Fa-f]{{{count}}}", text):
            raise ValueError(f"expected {count} hexadecimal digits, got {text!r:.80}")
        return text.lower()

    return check


_Fmspcs = Annotated[list[str], AfterValidator(_fmspcs)]
_Id = Annotated[str, AfterValidator(_digits(32))]


class ProductRule(BaseModel):
    """A product whose enclaves are all accepted: their content is not checked.

    Args:
        mr_signer: MRSIGNER, 32 bytes in hexadecimal.
        isv_prod_id: The exact product id.
        least_isv_svn: The lowest accepted security version.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mr_signer: Annotated[str, AfterValidator(_digits(64))]
    isv_prod_id: Annotated[int, Field(ge=0, le=_UINT16)]
    least_isv_svn: Annotated[int, Field(ge=0, le=_UINT16)]

    def reference(self) -> ProductReferenceValues:
        """Return the reference values of the product.

        Raises:
            InputError: `policy.reference-values` if MRSIGNER is zero.
        """
        return ProductReferenceValues(
            mr_signer=MrSigner(bytes.fromhex(self.mr_signer)), isv_prod_id=self.isv_prod_id, isv_svn=self.least_isv_svn
        )


class SgxRules(BaseModel):
    """The rules for SGX enclaves and processors. A rule that is `None` accepts any value.

    Args:
        fmspc_allow: The accepted kinds of processors.
        fmspc_deny: The refused kinds of processors, even if ``fmspc_allow`` lists them.
        misc_select: The exact value of MISCSELECT.
        kss: Whether the enclave must use Key Separation and Sharing (KSS), or must not use it.
        config_id: The exact value of CONFIGID, 64 bytes in hexadecimal. The host chooses it when the enclave starts.
        least_config_svn: The lowest accepted value of CONFIGSVN.
        isv_ext_prod_id: The exact value of ISVEXTPRODID, 16 bytes in hexadecimal.
        isv_family_id: The exact value of ISVFAMILYID, 16 bytes in hexadecimal.
        dangerous_signer: A product whose enclaves receive the key of the release, even if they are not registered. It
            adds reference values when a release is registered, so `check` does not read it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    fmspc_allow: Annotated[_Fmspcs, AfterValidator(_not_empty)] | None = None
    fmspc_deny: _Fmspcs = []
    misc_select: Annotated[int, Field(ge=0, le=_UINT32)] | None = None
    kss: bool | None = None
    config_id: Annotated[str, AfterValidator(_digits(128))] | None = None
    least_config_svn: Annotated[int, Field(ge=0, le=_UINT16)] | None = None
    isv_ext_prod_id: _Id | None = None
    isv_family_id: _Id | None = None
    dangerous_signer: ProductRule | None = None

    def check(self, facts: Mapping[str, Fact]) -> None:
        """Check the facts of a quote.

        Raises:
            VerificationError: The first rule that the facts do not satisfy.
            KeyError: A fact that a rule needs is missing.
        """
        if self.fmspc_deny or self.fmspc_allow is not None:
            self._check_fmspc(str(facts["fmspc"]).upper())
        if self.misc_select is not None and facts["misc_select"] != self.misc_select:
            raise SgxCode.POLICY_MISC_SELECT.error(
                _expected("MISCSELECT", f"{self.misc_select:#x}", f"{facts['misc_select']:#x}")
            )
        if self.kss is not None and bool(facts["kss"]) != self.kss:
            raise SgxCode.POLICY_KSS.error(_expected("KSS", _on(self.kss), _on(bool(facts["kss"]))))
        for name, code, label in (
            ("config_id", SgxCode.POLICY_CONFIG_ID, "CONFIGID"),
            ("isv_ext_prod_id", SgxCode.POLICY_KSS, "ISVEXTPRODID"),
            ("isv_family_id", SgxCode.POLICY_KSS, "ISVFAMILYID"),
        ):
            wanted = getattr(self, name)
            if wanted is not None and (found := facts[name]) != wanted:
                raise code.error(_expected(label, wanted, str(found)))
        if self.least_config_svn is not None and (svn := int(str(facts["config_svn"]))) < self.least_config_svn:
            raise SgxCode.POLICY_CONFIG_ID.error(_expected("CONFIGSVN", f"at least {self.least_config_svn}", str(svn)))

    def _check_fmspc(self, fmspc: str) -> None:
        if fmspc in self.fmspc_deny:
            raise SgxCode.POLICY_FMSPC.error(
                f"The policy denies processors with the FMSPC {fmspc}.",
                hint="Use another kind of machine, or remove the FMSPC from sgx.fmspc_deny in the policy.",
            )
        if self.fmspc_allow is not None and fmspc not in self.fmspc_allow:
            raise SgxCode.POLICY_FMSPC.error(
                f"The policy does not allow processors with the FMSPC {fmspc}: expected {', '.join(self.fmspc_allow)}.",
                hint="Use another kind of machine, or add the FMSPC to sgx.fmspc_allow in the policy.",
            )

    def sentences(self) -> Iterator[str]:
        """Yield a plain sentence for each rule."""
        if self.fmspc_allow is not None:
            yield f"Only processors with these FMSPCs are accepted: {', '.join(self.fmspc_allow)}."
        if self.fmspc_deny:
            yield f"Processors with these FMSPCs are always refused: {', '.join(self.fmspc_deny)}."
        if self.misc_select is not None:
            yield f"The enclave's MISCSELECT must be {self.misc_select:#x}."
        if self.kss is not None:
            yield f"The enclave's KSS must be {_on(self.kss)}."
        for name, label in (("config_id", "CONFIGID"), ("isv_ext_prod_id", "ISVEXTPRODID"),
                            ("isv_family_id", "ISVFAMILYID")):  # fmt: skip
            if (wanted := getattr(self, name)) is not None:
                yield f"The enclave's {label} must be {wanted}."
        if self.least_config_svn is not None:
            yield f"The enclave's CONFIGSVN must be at least {self.least_config_svn}."
        if (product := self.dangerous_signer) is not None:
            yield (
                f"DANGEROUS: Each enclave that the key with MRSIGNER {product.mr_signer} signed is accepted, whatever "
                f"it contains, if its ISVPRODID is {product.isv_prod_id} and its ISVSVN is at least "
                f"{product.least_isv_svn}."
            )


def parse_table(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the table ``[sgx]`` of a policy file and return its rules.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value is invalid.
    """
    return SgxRules.model_validate(table).model_dump(exclude_defaults=True)


@lru_cache(maxsize=64)
def rules_of(evidence_rules: str) -> SgxRules:
    """Return the rules for SGX in `AppraisalPolicy.evidence_rules`.

    Raises:
        InputError: `policy.evidence-rules` if the text contains rules for another kind of evidence, or invalid rules.
    """
    try:
        found = json.loads(evidence_rules)
        if not isinstance(found, dict) or found.keys() - {TABLE}:
            raise _invalid("expected only rules for SGX")
        return SgxRules.model_validate_json(json.dumps(found.get(TABLE, {})))
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise _invalid("its JSON has another form") from error


def _invalid(reason: str) -> SealserveError:
    return SgxCode.POLICY_EVIDENCE_RULES.error(
        f"The policy has rules that the verifier of SGX evidence does not support: {reason}.",
        hint="Register the release again with a valid policy: `sealserve broker allow --reactivate`.",
    )


def _expected(field: str, expected: str, found: str) -> str:
    return f"The enclave does not satisfy the policy: expected {field} {expected}, got {found}."


def _on(value: bool) -> str:  # the value to describe
    return "on" if value else "off"
