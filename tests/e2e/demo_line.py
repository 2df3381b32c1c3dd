"""The last line of a demo."""

KEYS = [
    "requests",
    "failed",
    "streams_cut",
    "visitors",
    "moved_unasked",
    "moved_back_and_forth",
    "moved_at_deadline",
    "moved_by_rollback",
    "phases",
    "bad_image_refused",
]
