"""The gallery: a static page that compares recipes image by image, and the files it is made of."""
