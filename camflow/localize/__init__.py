"""Seed maps, and one file per localizer."""
