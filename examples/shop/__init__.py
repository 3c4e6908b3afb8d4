"""The example shop: a small record store."""

from shop.app import app, open_shop
from shop.cdnow import replay
from shop.seed import seed_catalogue

__all__ = ["app", "open_shop", "replay", "seed_catalogue"]
