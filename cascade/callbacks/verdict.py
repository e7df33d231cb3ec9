"""What ends a run that does not learn."""


class NotLearningError(ValueError):
    """More of the same steps would not make a stage that works."""
