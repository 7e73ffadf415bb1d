"""Studies of the papers: what a method does on the way, measured on any dataset. One file a study."""
