"""Pure renderings: what was read, as tables, text or JSON."""
