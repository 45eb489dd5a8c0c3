"""Running a model: a cache of keys and values, the choice of a token, and the engine."""
