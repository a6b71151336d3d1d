"""The name that array-api-compat imports; the package calls nothing of it."""
