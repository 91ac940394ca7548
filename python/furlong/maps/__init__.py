"""Maps: sequences dealt to tasks, and their results put together."""
