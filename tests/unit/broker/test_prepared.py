"""Prepared statements return what SQLAlchemy returns, and fail as its statements fail."""

from typing import Protocol

import pytest
from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from tests.harness.errors import raises

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.prepared import Prepared, run
from sealserve.broker.standing import ReleaseState
from sealserve.broker.tables import KEYS, RELEASES


class Stage(Protocol):
    """The attribute of `conftest.Stage` that these tests use."""

    database: Database


_BY_STATE = select(RELEASES).where(RELEASES.c.state == ReleaseState.ACTIVE, RELEASES.c.name == bindparam("name"))
_ADD = Prepared(insert(KEYS))
_KEY = {"wrapper": "file", "format": 2, "wrapped": b"\x00\xff", "created": "now"}


def test_the_rows_are_the_rows_of_sqlalchemy(stage: Stage) -> None:
    statement = Prepared(_BY_STATE)
    for _ in range(2):  # compiled, and from the cache
        with stage.database.read() as connection:
            expected = [row._asdict() for row in connection.execute(_BY_STATE, {"name": "resnet50"})]
            assert statement.rows(connection, name="resnet50") == expected
            assert statement.first(connection, name="resnet50") == expected[0]
            assert statement.first(connection, name="100% %(name)s ?") is None
    assert len(expected) == 1


def test_bytes_and_missing_values_are_written(stage: Stage) -> None:
    with stage.database.write() as connection:
        _ADD.execute(connection, key_id="0" * 32, **_KEY)
        found = connection.execute(select(KEYS).where(KEYS.c.key_id == "0" * 32)).one()
    assert found.wrapped == b"\x00\xff"


def test_a_failure_is_an_error_of_sqlalchemy_without_values(stage: Stage) -> None:
    with raises(BrokerCode.DATABASE) as caught, stage.database.write() as connection:
        _ADD.execute(connection, key_id="0" * 32, **_KEY)
        with pytest.raises(IntegrityError) as failed:
            _ADD.execute(connection, key_id="0" * 32, **_KEY)
        assert "x00" not in str(failed.value)
        raise failed.value
    assert "x00" not in caught.value.message
    with pytest.raises((OperationalError, ProgrammingError)), stage.database._engine.engine.connect() as raw:
        run(raw, "SELECT nothing FROM nowhere")
    with stage.database.read() as connection:
        assert connection.execute(select(KEYS.c.key_id).where(KEYS.c.key_id == "0" * 32)).first() is None
    assert issubclass(IntegrityError, SQLAlchemyError)
