"""The gate on a score: limits and tolerances, the sequential test, and the message of a failure.

As for ``gates``; nothing is imported from ``gates.latency``.
"""
