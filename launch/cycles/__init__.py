"""What `launch/simulate.py` simulates, on which machine, and how it is shown."""
