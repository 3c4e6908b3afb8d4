"""A query in, an answer out: typed queries over views of the read store, as fresh as the caller asks for."""
