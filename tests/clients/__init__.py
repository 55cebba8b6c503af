"""The clients that are shipped, each edition against the same hosts and the same claims."""
