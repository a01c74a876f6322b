"""app: shows it. Command line and web are two faces of the same recipes."""
