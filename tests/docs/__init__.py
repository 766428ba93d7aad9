"""The documentation: its code runs, its tables agree with the code, and its site builds without a warning."""
