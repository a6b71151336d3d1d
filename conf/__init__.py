"""The Hydra configuration tree; a package, so that `hedgerl.conf` is found after an install."""
