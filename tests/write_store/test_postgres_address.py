"""What the URL of a log says, in the forms that PostgreSQL's own tools take."""

import pytest

from twofold.write_store.postgres.address import address_of


@pytest.mark.parametrize(
    "url", ["postgresql://u@a,b/db", "postgresql://u@[::1]:1,[::2]:2/db", "postgresql:///db?host=a,b"]
)
def test_of_several_hosts_the_one_that_takes_writes_is_meant(url: str) -> None:
    assert "target_session_attrs=read-write" in address_of(url).dsn


@pytest.mark.parametrize("url", ["postgresql://u:x,y@a/db", "postgresql:///db?host=/tmp", "postgresql://u@[::1]:1/db"])
def test_a_single_host_may_be_a_standby_whatever_the_password(url: str) -> None:
    assert "target_session_attrs" not in address_of(url).dsn
