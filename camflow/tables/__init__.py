"""Tables from score files."""
