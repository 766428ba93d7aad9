"""What can be scored. Only this folder imports torch and transformers, and only when a concrete engine is asked for."""
