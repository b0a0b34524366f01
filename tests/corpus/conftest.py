"""A profile for those who search longer: `pytest --hypothesis-profile=thorough`."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=2000)
