"""Results of tasks: futures, what is known of each task, and what it displayed."""
