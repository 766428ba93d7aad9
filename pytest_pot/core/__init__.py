"""What every other folder builds on: errors, the scoring configuration, validation of arguments, text and hashing.

Nothing of pytest-pot is imported here, and nothing heavy either: tests are collected with this much.
"""
