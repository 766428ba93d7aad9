"""The gate on latency and memory: what is timed, the stopwatch, the statistics, and the message of a failure.

As for ``gates``; nothing is imported from ``gates.verdict``.
"""
