"""Read stores: `port` says what they do, `memory` and each package is one, the other modules are what they share."""
