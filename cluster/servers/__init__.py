"""Real servers as processes of this machine: started, found, frozen, killed, and never left behind."""
