"""The section ``[images]`` of ``sealserve.toml``."""

from pydantic import Field

from sealserve import __version__
from sealserve.deployment.section import Section
from sealserve.deployment.values import ImagePrefix, ImageTag


class ImagesSection(Section):
    """Names of the container images: PREFIX-NAME:TAG."""

    prefix: ImagePrefix = Field(
        default="sealserve", description='a name, or a registry and a path: "registry.example.com/team/sealserve"'
    )
    tag: ImageTag = Field(default=__version__, description="version of the images")
