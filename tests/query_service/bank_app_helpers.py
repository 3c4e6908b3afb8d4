"""Apps of the sample bank with one read model of each lifecycle: inline, live and async."""

from pathlib import Path

from tests.sample_domains.bank import BANK_OF_ALL_LIFECYCLES
from twofold.app import App
from twofold.settings import Settings


def bank_app(write_store: str = "memory:", read_store: str = "memory:") -> App:
    """The app, on stores of these URLs."""
    settings = Settings(wait_seconds=2.0)
    return App(BANK_OF_ALL_LIFECYCLES, write_store=write_store, read_store=read_store, settings=settings)


def bank_app_in(folder: Path) -> App:
    """The app, on files."""
    return bank_app(f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/views.db")
