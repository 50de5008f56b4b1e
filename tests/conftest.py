"""What holds for every test: time is never what a property is judged by."""

from hypothesis import settings

settings.register_profile("dpamt", deadline=None)
settings.load_profile("dpamt")
