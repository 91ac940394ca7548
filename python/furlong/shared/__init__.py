"""Files that engines have as well: links into `furlong_worker`."""
