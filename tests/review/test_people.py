from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from patchlight.errors import InputError
from patchlight.review.people import accept, change, first_token, invite, may, people, sign_in
from patchlight.review.records import ROLES
from tests.review.conftest import Join

PASSWORD = "a long password"


def test_the_first_link_makes_one_admin_and_is_void_then(either: Engine) -> None:
    earlier, token = first_token(either), first_token(either)
    admin = accept(either, token, "  root ", PASSWORD)
    assert (admin.name, admin.role) == ("root", "admin")
    assert first_token(either) is None
    for used in (token, earlier):
        with pytest.raises(InputError, match="review-invitation"):
            accept(either, used, "another", PASSWORD)


def test_a_password_opens_and_only_that_of_an_active_person(either: Engine, join: Join) -> None:
    reviewer = join(either, "reviewer")
    assert sign_in(either, reviewer.name, PASSWORD) == reviewer
    assert sign_in(either, reviewer.name, PASSWORD + "x") is None
    assert sign_in(either, "nobody", PASSWORD) is None
    change(either, people(either)[0], reviewer.id, active=False)
    assert sign_in(either, reviewer.name, PASSWORD) is None
    with either.begin() as connection:
        assert PASSWORD not in str(connection.execute(text("SELECT * FROM people")).all())


def test_a_taken_name_leaves_the_link_usable(database: Engine, join: Join) -> None:
    join(database, "viewer")
    token = invite(database, people(database)[0], "reviewer")
    with pytest.raises(InputError, match="review-name"):
        accept(database, token, "root", PASSWORD)
    assert accept(database, token, "another", PASSWORD).role == "reviewer"


def test_the_last_admin_stays_and_nobody_else_may_invite(database: Engine, join: Join) -> None:
    lead = join(database, "lead")
    with pytest.raises(InputError, match="review-last-admin"):
        change(database, people(database)[0], people(database)[0].id, role="viewer")
    assert people(database)[0].role == "admin"
    with pytest.raises(InputError, match="review-not-allowed"):
        invite(database, lead, "admin")


@pytest.mark.parametrize("role", ROLES)
def test_nobody_may_do_what_no_role_names(database: Engine, join: Join, role: str) -> None:
    assert not may(join(database, role), "change numbers")


def test_a_short_password_is_refused(database: Engine) -> None:
    with pytest.raises(InputError, match="review-password"):
        accept(database, first_token(database), "root", "short")
