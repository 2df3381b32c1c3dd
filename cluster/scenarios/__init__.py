"""What an operator does in a run, and when: commands and key writes, with the events that the verdict is judged by."""
