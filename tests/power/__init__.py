"""Hosts that lose power, disks and locks at the worst moment."""
