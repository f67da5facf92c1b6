"""The owner's first steps: everything that a deployment needs before a release can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sealserve.deployment import Deployment
from sealserve.owner import certificates, models, releases
from sealserve.pki.authority import AuthorityKind
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Step:
    """A step that must still be done.

    Args:
        text: Description of the step for people, such as ``sealing a release``.
        run: Carries out the step.
        runs_tensorflow: Whether the step runs TensorFlow, whose native code writes to standard error.
    """

    text: str
    run: Callable[[], object]
    runs_tensorflow: bool = False


def missing_steps(
    workspace: Workspace,
    deployment: Deployment,
    *,
    now: datetime,
    warn: Callable[[str], None],
    rebuild: bool = False,
) -> Sequence[Step]:
    """Return the steps that must still be done, in order: models, certificates, a release. Nothing is changed.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        now: Time of the certificates and of the release.
        warn: Called with each warning about a model while it is converted or sealed.
        rebuild: Build a new release even if one exists, and convert models again whose source changed.
    """
    steps = [
        Step(
            f"converting the model {model.name}",
            partial(models.bring_in, workspace, model, warn=warn),
            runs_tensorflow=True,
        )
        for model in deployment.models
        if not models.is_imported(workspace, model)
    ]
    if rebuild:
        steps += [
            Step(
                f"converting the changed model {model.name} again",
                partial(models.bring_in_again, workspace, model, warn=warn),
                runs_tensorflow=True,
            )
            for model in models.stale(workspace, deployment.models)
        ]
    if not all((workspace.owner.authorities / kind).exists() for kind in AuthorityKind):
        make = partial(certificates.create_certificates, workspace, deployment, now=now, first_time=True)
        steps.append(Step(f"creating certificates for {TlsMode(deployment.service.tls).value} TLS", make))
    elif rebuild and certificates.lacks_certificates(workspace, deployment):
        adapt = partial(certificates.adapt_certificates, workspace, deployment, now=now)
        replaced = certificates.outgrown_authorities(workspace, deployment)
        text = "issuing the user's certificate"
        if replaced:
            text = f"replacing the certificate authorities of {', '.join(replaced)}"
        elif certificates.lacks_issuing(workspace, deployment):
            text = "creating the issuing authority"
        steps.append(Step(text, adapt))
    elif certificates.lacks_issuing(workspace, deployment):  # for a release that `release build` made
        create = partial(certificates.ensure_issuing, workspace, deployment, now=now)
        steps.append(Step("creating the issuing authority", create))
    if rebuild or not releases.any_in(workspace.owner.releases):
        steps.append(Step("sealing a release", partial(releases.build, workspace, deployment, now=now, warn=warn)))
    return steps
