"""Section of ``sealserve.toml`` with the broker's database."""

from typing import Self

from pydantic import Field, model_validator

from sealserve.deployment.database_url import VERIFIED, DatabaseUrl, PostgresqlUrl, parse_database_url
from sealserve.deployment.section import Section, at_key
from sealserve.deployment.values import FilePath


class DatabaseSection(Section):
    """The broker's database: a file in the workspace, or a PostgreSQL server that several brokers can share."""

    url: DatabaseUrl | None = Field(
        default=None,
        description="the URL of a PostgreSQL database, without a password: postgresql://USER@HOST/NAME; "
        "by default, the database is an SQLite file in the workspace",
    )
    password_file: FilePath | None = Field(default=None, description="a file (0600) with the password of the user")
    ca_file: FilePath | None = Field(
        default=None, description="a PEM file with the CA of the server's certificate; required for another machine"
    )
    dangerous_unverified_server: bool = Field(
        default=False,
        description="whether `sslmode` in the URL may omit the verification of the server's certificate and name",
    )

    @property
    def parsed(self) -> PostgresqlUrl | None:
        """The parsed URL, or None for the SQLite file."""
        return None if self.url is None else parse_database_url(self.url)

    @model_validator(mode="after")
    def _server_is_verified(self) -> Self:
        if (parsed := self.parsed) is None:
            for key in ("password_file", "ca_file"):
                if getattr(self, key) is not None:
                    raise at_key(f"database.{key}", "expected only together with database.url")
            return self
        if not (parsed.is_local or parsed.is_verified or self.dangerous_unverified_server):
            raise at_key(
                "database.url",
                f"expected sslmode={VERIFIED} for another machine, got {parsed.parameters['sslmode']!r:.40}",
            )
        if parsed.is_verified and self.ca_file is None:
            raise at_key("database.url", "expected database.ca_file too: it verifies the server's certificate")
        return self
