"""What people and machines read of a run: the summary table, JSON, Markdown, JUnit properties, facts about recordings.

Everything but ``plugin`` may be imported here, and pytest is not.
"""
