"""What a probe has to say without ending anything."""


class NormscopeWarning(UserWarning):
    """Something cannot be recorded, or a recording has stopped; the program goes on."""
