"""The PersistentVolumeClaim for releases, if `up` creates it.

All pods share it, and Gramine opens encrypted files read-write. So it must be ReadWriteMany.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes.
"""

from collections.abc import Sequence

from sealserve.cluster.kubernetes import sources
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext


def storage(context: RenderContext) -> Sequence[Manifest]:
    """Return the claim if ``kubernetes.store.storage_class`` is set. Otherwise the claim already exists."""
    settings = context.settings
    name = sources.claim_of(context)
    if name is None or not settings.store.storage_class:
        return []
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": settings.store.storage_class,
        "resources": {"requests": {"storage": settings.store.storage_size}},
    }
    metadata = {**context.metadata("releases"), "name": name}
    return [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}]
