"""One file per refiner."""
