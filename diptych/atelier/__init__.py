"""The embedded data: artwork, names in 96 languages, and the scenes and data sets composed from them."""
