"""The collateral that the broker stored in the workspace: its list, and its refresh."""

from collections.abc import Mapping

from sealserve.broker.stored_collateral import StoredDocument
from sealserve.deployment import Deployment
from sealserve.errors import SealserveError
from sealserve.owner.attestation import open_client, trust_anchors
from sealserve.sgx.collateral_folder import CollateralFolder
from sealserve.sgx.collateral_requests import Document
from sealserve.sgx.pcs_responses import Signed
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace


def stored(workspace: Workspace) -> list[StoredDocument]:
    """Return the stored documents that are intact and signed by the vendor. Other files are logged and omitted."""
    return [
        found
        for platform, anchor in trust_anchors(workspace).items()
        for document in _documents(workspace, platform)
        if (found := _read(workspace, platform, anchor, document)) is not None
    ]


def refresh(workspace: Workspace, deployment: Deployment) -> Mapping[str, SealserveError]:
    """Download each stored document again. A running broker uses the new documents for its next request.

    Returns:
        The errors, by the document's title. The former document stays in place after an error.
    """
    errors: dict[str, SealserveError] = {}
    for platform, anchor in trust_anchors(workspace).items():
        if not (documents := _documents(workspace, platform)):
            continue
        with open_client(workspace, deployment, platform, anchor) as client:
            for document in documents:
                try:
                    client.refresh(document)
                except SealserveError as error:
                    errors[f"{document.title} ({platform})"] = error
    return errors


def _documents(workspace: Workspace, platform: PlatformKind) -> list[Document]:
    names = CollateralFolder(workspace.owner.collateral / platform.value).names()
    return [document for document in map(Document.named, names) if document is not None]


def _read(
    workspace: Workspace, platform: PlatformKind, anchor: TrustAnchor, document: Document
) -> StoredDocument | None:
    reply = CollateralFolder(workspace.owner.collateral / platform.value).read(document.name)
    if reply is None:
        return None
    try:
        value = document.read(reply.body, reply.headers, anchor=anchor)
    except SealserveError:
        return None
    return StoredDocument(
        platform=platform,
        document=document.kind.label,
        subject=document.subject or None,
        update=document.update,
        evaluation_number=value.evaluation_number if isinstance(value, Signed) else None,
        issued=value.issued,
        valid_until=value.next_update,
        fetched=reply.fetched,
        url=reply.url,
    )
