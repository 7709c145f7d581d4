"""Makes helpers such as `tiny_scenes` importable from every test folder."""
