"""The error that ends a run which does not learn."""


class NotLearningError(ValueError):
    """The run does not learn: more steps would not give a working stage."""
