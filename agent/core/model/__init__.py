"""The vocabulary: names, keys, documents and states that everybody shares. Imports nothing else of ours."""
