"""The command line: the one place that may import the core, the daemon and the clients, lazily."""
