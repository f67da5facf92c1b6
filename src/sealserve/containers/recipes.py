"""The recipes of sealserve's images: their base images and their Python packages."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sealserve.terms import RuntimeKind, ServerKind

DEBIAN: Final = "debian:12.12-slim"
# hub.docker.com/r/gramineproject/gramine; Gramine 1.9, packaging/docker/Dockerfile (Ubuntu 24.04)
GRAMINE: Final = "gramineproject/gramine:1.9-noble"
# hub.docker.com/r/tensorflow/serving; tensorflow/serving, tools/docker/Dockerfile (built on Ubuntu 22.04)
TENSORFLOW_SERVING: Final = "tensorflow/serving:2.20.0"
SERVICE_USER: Final = 65532
"""The user of every image. No account of a distribution has this number, and other images use it as "nonroot"."""


class ImageName(StrEnum):
    """The images of sealserve."""

    BROKER = "broker"
    CLIENT = "client"
    FRONT = "front"
    SERVER_SIMULATED = "server-simulated"
    SERVER_GRAMINE = "server-gramine"


class Packages(StrEnum):
    """The set of locked Python packages of an image."""

    NONE = "none"
    BASE = "base"
    BROKER = "broker"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """The base images, each with a tag or a digest.

    Args:
        debian: For all images except server-gramine: Debian 12, or an image with its packages.
        gramine: For server-gramine: Ubuntu 24.04 or Debian 12 with Gramine.
        tensorflow_serving: The image from which server-gramine's ``tensorflow_model_server`` is copied.
    """

    debian: str = DEBIAN
    gramine: str = GRAMINE
    tensorflow_serving: str = TENSORFLOW_SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The description of how an image is built.

    Args:
        name: The image.
        dockerfile: The name of its Dockerfile in the package's ``dockerfiles/``.
        packages: Its set of Python packages.
        bases: The build arguments that select base images, with their values.
        title: A short description for people.
    """

    name: ImageName
    dockerfile: str
    packages: Packages
    bases: dict[str, str]
    title: str


def recipe(name: ImageName, *, bases: Bases, server: ServerKind = ServerKind.EMBEDDED) -> Recipe:
    """Return how to build the image ``name``.

    Args:
        name: The image.
        bases: Its base images.
        server: The model server in server-gramine.
    """
    debian = {"BASE": bases.debian}
    match name:
        case ImageName.FRONT:
            title = "NGINX, which passes TLS through by its server name"
            return Recipe(name=name, dockerfile="front", packages=Packages.NONE, bases=debian, title=title)
        case ImageName.BROKER:
            title = "the owner's broker"
            return Recipe(name=name, dockerfile="broker", packages=Packages.BROKER, bases=debian, title=title)
        case ImageName.SERVER_SIMULATED:
            title = "the model server in a simulated enclave, which does not protect the model from the host"
            return Recipe(name=name, dockerfile="server-simulated", packages=Packages.SERVER, bases=debian, title=title)
        case ImageName.SERVER_GRAMINE if server is ServerKind.TENSORFLOW_SERVING:
            arguments = {"BASE": bases.gramine, "TENSORFLOW_SERVING": bases.tensorflow_serving}
            title = "TensorFlow Serving's model server under Gramine"
            return Recipe(
                name=name, dockerfile="server-gramine-tensorflow-serving", packages=Packages.BASE, bases=arguments,
                title=title,
            )  # fmt: skip
        case ImageName.SERVER_GRAMINE:
            title = "sealserve-model-server under Gramine"
            return Recipe(
                name=name, dockerfile="server-gramine", packages=Packages.SERVER, bases={"BASE": bases.gramine},
                title=title,
            )  # fmt: skip
        case _:
            title = "the client for users of the service"
            return Recipe(name=name, dockerfile=name.value, packages=Packages.BASE, bases=debian, title=title)


def images_for(runtime: RuntimeKind) -> tuple[ImageName, ...]:
    """Return the images that a deployment with enclaves in ``runtime`` needs."""
    server = ImageName.SERVER_SIMULATED if runtime is RuntimeKind.SIMULATED else ImageName.SERVER_GRAMINE
    return (ImageName.BROKER, ImageName.CLIENT, ImageName.FRONT, server)


def reference(prefix: str, name: ImageName, tag: str) -> str:
    """Return an image's name: ``PREFIX-NAME:TAG``."""
    return f"{prefix}-{name.value}:{tag}"
