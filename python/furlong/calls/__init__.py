"""One call: its arguments checked, its codec, and the task that it is submitted as."""
