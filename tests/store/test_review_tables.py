from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.store.database import metadata as ledger
from patchlight.store.database import writing
from patchlight.store.review import VERSION_TABLE, metadata, open_review
from tests.review.conftest import either, postgres  # noqa: F401  (fixtures)


def test_the_migrations_make_what_the_code_expects(either: Engine) -> None:  # noqa: F811
    def ours(_: object, name: str, sort: str, *__: object) -> bool:
        return not (sort == "table" and name in ledger.tables)

    with either.begin() as connection:
        opts = {"version_table": VERSION_TABLE, "include_object": ours, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=opts), metadata) == []


def test_tables_of_a_newer_patchlight_are_refused(tmp_path) -> None:
    engine = open_review(tmp_path)
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(EnvironmentProblem, match="store-newer"):
        open_review(tmp_path)


@pytest.mark.parametrize("url", ["mysql://a/b", "nonsense", "sqlite:///x"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="store-database-url"):
        open_review(url)


def test_a_server_that_is_not_there_is_told_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(EnvironmentProblem, match="store-database-unreachable") as raised:
        open_review("postgresql+psycopg://someone:secret-word@127.0.0.1:1/none")
    assert "secret-word" not in str(raised.value)
