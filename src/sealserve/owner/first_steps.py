"""The owner's first steps: what a deployment needs before there is a release to run."""

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
    """A step that was not done yet.

    Args:
        text: What it does, as a person reads it while it runs.
        run: Does it.
        runs_tensorflow: Whether it runs TensorFlow, whose native code writes to standard error.
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
    """Return the steps that were not done yet, in order: models, certificates, a release. This changes nothing.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        now: The time of the certificates and of the release.
        warn: Called with what is dangerous in a model, while the release is sealed.
        rebuild: Whether a new release is wanted although there is one: models whose source changed are converted
            again.
    """
    steps = [
        Step(f"converting the model {model.name}", partial(models.bring_in, workspace, model), runs_tensorflow=True)
        for model in deployment.models
        if not models.is_imported(workspace, model)
    ]
    if rebuild:
        steps += [
            Step(
                f"converting the changed model {model.name} again",
                partial(models.bring_in_again, workspace, model),
                runs_tensorflow=True,
            )
            for model in models.stale(workspace, deployment.models)
        ]
    if not all((workspace.owner.authorities / kind).exists() for kind in AuthorityKind):
        make = partial(certificates.create_certificates, workspace, deployment, now=now, first_time=True)
        steps.append(Step(f"making certificates for {TlsMode(deployment.service.tls).value} TLS", make))
    elif rebuild and certificates.lacks_certificates(workspace, deployment):
        adapt = partial(certificates.adapt_certificates, workspace, deployment, now=now)
        replaced = certificates.outgrown_authorities(workspace, deployment)
        text = f"replacing the authorities of {', '.join(replaced)}" if replaced else "issuing the user's certificate"
        steps.append(Step(text, adapt))
    if rebuild or not releases.any_in(workspace.owner.releases):
        steps.append(Step("sealing a release", partial(releases.build, workspace, deployment, now=now, warn=warn)))
    return steps
