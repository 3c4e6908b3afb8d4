"""How long to wait before something that failed is tried again."""


def delay(attempt: int, *, first: float, longest: float) -> float:
    """Seconds to wait after failure number `attempt` in a row, counted from 1: `first`, then twice as long each time.

    Never more than `longest`.
    """
    return min(first * 2.0 ** min(attempt - 1, 60), longest)
