"""What the operating system offers: journal, health probe, systemd, disk, programs."""
