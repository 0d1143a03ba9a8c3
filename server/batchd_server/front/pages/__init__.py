"""Pages for people. They load nothing from anywhere else, and run no script that stands in the page itself."""
