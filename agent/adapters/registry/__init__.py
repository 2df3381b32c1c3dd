"""Image registries: which digest a reference means, and with which login to ask."""
